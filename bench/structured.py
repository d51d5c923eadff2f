"""What does structured output cost, and what does it gain where the structure leaves no choice?

    python -m bench.structured [--model smollm2|gemma] [--threads N] [--repeats 5] [--json FILE]

``mask``: time per token with a mask beside that without, for the same number of tokens and rows;
the structure is an expression that leaves thousands of tokens at every place. At most 1.05 is
wanted. ``extraction``: seconds from the call to the result of filling in a record, constrained,
beside free text of as many tokens as the record has. At most 0.8 is wanted. All figures are
medians, taken in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import inferlib
from bench import machine, models

FREE = r"[^\x00]{4000,5000}"
RECORD = {
    "type": "object",
    "properties": {
        "customer_name": {"type": "string", "maxLength": 24},
        "order_number": {"type": "integer", "minimum": 1, "maximum": 99999},
        "delivery_status": {"enum": ["waiting for payment", "on its way", "delivered"]},
        "shipping_address": {
            "type": "object",
            "properties": {
                "street_name": {"type": "string", "maxLength": 24},
                "house_number": {"type": "integer", "minimum": 1, "maximum": 999},
                "postal_code": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["street_name", "house_number", "postal_code"],
            "additionalProperties": False,
        },
        "is_gift_wrapped": {"type": "boolean"},
    },
    "required": [
        "customer_name",
        "order_number",
        "delivery_status",
        "shipping_address",
        "is_gift_wrapped",
    ],
    "additionalProperties": False,
}
LETTER = (
    "Dear shop, my order 4711 was to be delivered to 12 Station Road, 90210, but the site says "
    "that it is still on its way. It is a present, so please do not forget the wrapping. "
    "Jane Miller. As JSON: "
)


def per_token(model: inferlib.Model, max_tokens: int, repeats: int) -> dict[str, float]:
    """Seconds per token with and without a mask, and their ratio."""
    seconds: dict[str, list[float]] = {"free": [], "masked": []}
    options = {"max_tokens": max_tokens, "ignore_eos": False, "min_tokens": max_tokens}
    for seed in range(repeats):
        for kind, structure in (("free", {}), ("masked", {"regex": FREE})):
            found = model.generate(LETTER, seed=seed, speculation="off", **options, **structure)
            assert len(found.token_ids) == max_tokens, found.finish_reason
            seconds[kind].append(found.timings.inter_token_latency or 0.0)
    free, masked = (statistics.median(seconds[kind]) for kind in ("free", "masked"))
    return {"free_seconds": free, "masked_seconds": masked, "ratio": masked / free}


def extraction(model: inferlib.Model, repeats: int) -> dict[str, float]:
    """Seconds of filling in a record, of free text of as many tokens, and their ratio."""
    seconds: dict[str, list[float]] = {"free": [], "record": []}
    usage = None
    for seed in range(repeats):
        start = time.perf_counter()
        record = model.generate(LETTER, schema=RECORD, max_tokens=160, seed=seed)
        seconds["record"].append(time.perf_counter() - start)
        assert record.parsed is not None
        usage = record.usage
        count = usage.output_tokens
        start = time.perf_counter()
        model.generate(LETTER, max_tokens=count, min_tokens=count, seed=seed)
        seconds["free"].append(time.perf_counter() - start)
    free, constrained = (statistics.median(seconds[kind]) for kind in ("free", "record"))
    return {
        "free_seconds": free,
        "record_seconds": constrained,
        "ratio": constrained / free,
        "output_tokens": usage.output_tokens if usage else 0,
        "forced_tokens": usage.forced_tokens if usage else 0,
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = getattr(models, arguments.model)()
    with inferlib.Model.from_pretrained(path, threads=arguments.threads) as model:
        per_token(model, 8, 1)  # the first use builds the vocabulary's trie
        extraction(model, 1)
        result = {
            "model": path.name,
            "threads": arguments.threads or machine.cores(),
            "mask": per_token(model, arguments.max_tokens, arguments.repeats),
            "extraction": extraction(model, arguments.repeats),
            "read_bandwidth_gb_s": machine.read_bandwidth(arguments.threads),
            **machine.describe(),
        }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
