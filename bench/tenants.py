"""Can one tenant tell by the clock what another one asked?

    python -m bench.tenants [--probes 1000] [--json FILE]

A victim sends a prompt. The attacker then times the same prompt and one that nobody sent, in an
order drawn by lot, and asks whether the times come from the same distribution: the two-sample
Kolmogorov-Smirnov test. With a ``cache_salt`` per tenant they must (p above 0.05). Without, the
cached prefix is many times as fast, which shows that the test would see it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import arrivals, machine, models
from inferlib import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results" / "tenants.json"
PROMPT_TOKENS = 100
PARAMS: dict[str, Any] = {"max_tokens": 1, "temperature": 0}


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The largest distance of two distributions, and how likely chance brings one as large.

    Asymptotic, with the correction of Stephens 1970 for finite samples.
    """
    at = np.sort(np.concatenate([first, second]))
    shares = [
        np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (first, second)
    ]
    distance = float(np.abs(shares[0] - shares[1]).max())
    size = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    scaled = (size + 0.12 + 0.11 / size) * distance
    if scaled < 0.2:  # the series is 1 to 9 digits there and does not converge
        return distance, 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return distance, min(max(sum(terms), 0.0), 1.0)


def probe(
    model: Model, num_probes: int, victim: str | None, attacker: str | None
) -> dict[str, Any]:
    """Time prompts that the victim sent, and others."""
    lots = random.Random(1)  # noqa: S311  # repeatable, not secret
    times: dict[bool, list[float]] = {True: [], False: []}
    for index in range(num_probes):
        sent = arrivals.prompt(model, PROMPT_TOKENS, 2 * index)
        unsent = arrivals.prompt(model, PROMPT_TOKENS, 2 * index + 1)
        model.generate(sent, cache_salt=victim, **PARAMS)
        both = [(True, sent), (False, unsent)]
        lots.shuffle(both)
        for was_sent, token_ids in both:
            start = time.perf_counter()
            model.generate(token_ids, cache_salt=attacker, **PARAMS)
            times[was_sent].append(time.perf_counter() - start)
    distance, p = kolmogorov_smirnov(times[True], times[False])
    return {
        "probes": num_probes,
        "sent_ms_median": 1e3 * statistics.median(times[True]),
        "unsent_ms_median": 1e3 * statistics.median(times[False]),
        "ks_distance": distance,
        "p": p,
    }


def main() -> None:
    """Measure, print, store; fail if the attacker learns something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with Model.from_pretrained(models.smollm2(), max_model_len=512) as model:
        probe(model, 20, "warm", "up")
        result = {
            "with salts": probe(model, arguments.probes, "victim", "attacker"),
            "without": probe(model, max(arguments.probes // 10, 20), None, None),
        }
    for name, figures in result.items():
        print(name, *(f"{key} {value:.4g}" for key, value in figures.items()), sep="  ")
    described = {"machine": machine.describe(), **result}
    arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")
    if result["with salts"]["p"] <= 0.05 or result["without"]["p"] > 0.05:
        sys.exit("the times tell who asked what, or the test would not see it")


if __name__ == "__main__":
    main()
