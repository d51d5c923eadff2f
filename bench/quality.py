"""How far is a precision from exact? KL divergence per position over fixed texts.

    python -m bench.quality [--model smollm2|gemma] [--precision fast] [--kv-cache-dtype int8]
                            [--positions N] [--json F]

Teacher-forced: both precisions score the same token ids in windows of 256, which begin with BOS
where the model wants it. Exact precision is float32 throughout and equals transformers on the
golden cases. What the figures mean is said in ``bench/divergence.py``; ``bench/compare.py``
measures the same for other engines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench import machine, models, texts
from bench.divergence import Divergence
from bench.peers.ours import Engine

TOP = 1000
"""Of the vocabulary, per position: as many as ``prompt_logprobs`` gives."""


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--precision", default="fast")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = getattr(models, arguments.model)()
    exact = Engine(str(path), threads=machine.cores(), precision="exact")
    model = Engine(
        str(path),
        threads=machine.cores(),
        precision=arguments.precision,
        kv_cache_dtype=arguments.kv_cache_dtype,
    )
    windows = texts.windows(exact.encode, exact.beginning(), arguments.positions)
    parts = [
        Divergence.between(exact.score(token_ids, TOP), model.score(token_ids, TOP))
        for _, token_ids in windows
    ]
    result = {
        "model": path.name,
        "precision": arguments.precision,
        "kv_cache_dtype": arguments.kv_cache_dtype,
        **Divergence.joined(parts).summary(),
        **machine.describe(),
    }
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
