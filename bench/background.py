"""Does work in the background keep people waiting?

    python -m bench.background [--seconds 30] [--rounds 3] [--json FILE]

SmolLM2 answers requests that arrive at random: prompts of 256 tokens, 32 tokens each, at about a
fifth of what it serves. How long they wait for the first token: alone; beside a list that
``generate_many`` works through with ``priority="background"``; and beside the same list as ordinary
requests. The three take turns, with the same arrivals. Wanted: the 95th percentile in the
background at most a tenth above that alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import arrivals, machine
from bench.comparison.table import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import inferlib

RESULTS = Path(__file__).parent / "results" / "background.json"
BESIDE: dict[str, dict[str, Any] | None] = {
    "alone": None,
    "beside background work": {"priority": "background"},
    "beside ordinary requests": {},
}
RATE = 2.0
"""Requests a second."""
PROMPT_TOKENS = 256
PARAMS: dict[str, Any] = {"max_tokens": 32, "temperature": 0, "ignore_eos": True}
BATCH_PROMPT_TOKENS, BATCH_PARAMS = 128, PARAMS | {"max_tokens": 64}


class BatchWork:
    """A long list that a thread works through until it is left."""

    def __init__(self, model: inferlib.Model, options: dict[str, Any] | None) -> None:
        self.num_tokens = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if options is not None:
            work = model.generate_many(
                self._prompts(model), ordered=False, **BATCH_PARAMS | options
            )
            self._thread = threading.Thread(target=self._run, args=(work,))
            self._thread.start()

    def _prompts(self, model: inferlib.Model) -> Iterator[list[int]]:
        for index in itertools.count():
            if self._stop.is_set():
                return
            yield arrivals.prompt(model, BATCH_PROMPT_TOKENS, 10**7 + index)

    def _run(self, work: Any) -> None:  # the iterator of generate_many
        with work:
            for result in work:
                if self._stop.is_set():
                    return
                self.num_tokens += len(result.unwrap().token_ids)

    def stop(self) -> None:
        """End it; what runs is cancelled."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """All three, in turns."""
    firsts: dict[str, list[list[float]]] = {name: [] for name in BESIDE}
    speeds: dict[str, list[float]] = {name: [] for name in BESIDE}
    with arrivals.small_model(enable_prefix_caching=False, max_num_seqs=64) as model:
        arrivals.offer(model, [0.0] * 4, PROMPT_TOKENS, PARAMS, 1)  # warm
        for turn in range(rounds):
            moments = arrivals.poisson(RATE, seconds, turn)
            for name, options in BESIDE.items():
                work = BatchWork(model, options)
                found = arrivals.offer(model, moments, PROMPT_TOKENS, PARAMS, turn)
                work.stop()
                timings = [each.completion.timings for each in found if each.completion]
                firsts[name].append([each.first_token or 0.0 for each in timings])
                speeds[name].append(work.num_tokens / max(each.end for each in found))
    return {"rate": RATE, "lines": [_line(name, firsts, speeds) for name in BESIDE]}


def _line(
    name: str, firsts: dict[str, list[list[float]]], speeds: dict[str, list[float]]
) -> dict[str, Any]:
    own = list(itertools.chain.from_iterable(firsts[name]))
    alone = list(itertools.chain.from_iterable(firsts["alone"]))
    ratio = arrivals.percentile(own, 0.95) / arrivals.percentile(alone, 0.95)
    return {
        "beside": name,
        "requests": len(own),
        "first_token_ms_p50": 1e3 * arrivals.percentile(own, 0.5),
        "first_token_ms_p95": 1e3 * arrivals.percentile(own, 0.95),
        "p95_of_alone": ratio,
        "batch_tokens_per_second": statistics.median(speeds[name]),
    }


def grid(lines: Sequence[dict[str, Any]]) -> Grid:
    """A row each."""
    header = ["", "first token p50", "p95", "of alone", "batch tokens/s"]
    rows = [
        [
            line["beside"],
            f"{line['first_token_ms_p50']:.0f} ms",
            f"{line['first_token_ms_p95']:.0f} ms",
            f"{line['p95_of_alone']:.2f}",
            f"{line['batch_tokens_per_second']:,.0f}",
        ]
        for line in lines
    ]
    return Grid(header=header, rows=rows)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result = measure(arguments.seconds, arguments.rounds)
    print(grid(result["lines"]).text())
    described = {"machine": machine.describe(), **result}
    arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
