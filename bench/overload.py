"""Ten times as many requests as fit: what becomes of those that are let in?

    python -m bench.overload [--seconds 20] [--rounds 3] [--json FILE] [--plot FILE]

SmolLM2 with eight places and a queue of eight. How many requests a second it serves is measured
first, by always keeping the queue full; then requests arrive at random at a tenth to ten times that
rate, the rates taking turns in several rounds. Wanted: at ten times, 95 % of the tokens per second
that it serves at best, refusals within 5 ms, and as much time between two tokens of a request that
was let in as when it is just busy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import arrivals, machine
from bench.comparison.table import NONE, Grid
from bench.lines import Line, draw
from inferlib import Limits, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import inferlib

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "overload.json"
PLOT = ROOT / "docs" / "overload.svg"
LOADS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Times what the model serves."""
PLACES, QUEUE = 8, 8
PROMPT_TOKENS = 48
PARAMS: dict[str, Any] = {"max_tokens": 32, "temperature": 0, "ignore_eos": True}
SETTLING = 0.25
"""Share of a round in which the queue fills; what ends in it is not counted."""


@dataclass(frozen=True, slots=True)
class Round:
    """A load, for some seconds.

    Attributes:
        load: Times capacity.
        tokens_per_second: Of requests that were let in and ended.
        refused: Share of all requests.
        refusal_seconds: 99th percentile of how long a refusal took; ``None`` if there was none.
        token_seconds: 99th percentile over requests of the mean time between their tokens.
        first_token_seconds: 95th percentile, of those that were let in.
    """

    load: float
    tokens_per_second: float
    refused: float
    refusal_seconds: float | None
    token_seconds: float
    first_token_seconds: float


def capacity(model: inferlib.Model, seconds: float) -> float:
    """Requests a second if there is always one waiting."""
    begin = time.perf_counter()
    handles = []
    ended = 0
    while time.perf_counter() - begin < seconds:
        with contextlib.suppress(OverloadedError):  # the first ones wait until a step lets them in
            while len(handles) < PLACES + QUEUE // 2:
                token_ids = arrivals.prompt(model, PROMPT_TOKENS, 10**6 + ended + len(handles))
                handles.append(model.submit(token_ids, **PARAMS))
        handles[0].result()
        before = len(handles)
        handles = [handle for handle in handles if not handle.done()]
        ended += before - len(handles)
    rate = ended / (time.perf_counter() - begin)
    for handle in handles:
        handle.cancel()
    return rate


def one_round(model: inferlib.Model, rate: float, load: float, seconds: float, seed: int) -> Round:
    """Offer ``load`` times ``rate``."""
    moments = arrivals.poisson(load * rate, seconds, seed)
    found = arrivals.offer(model, moments, PROMPT_TOKENS, PARAMS, seed)
    let_in = [each.completion for each in found if each.completion is not None]
    begin = seconds * SETTLING
    ended = [each for each in found if each.completion and begin <= each.end < seconds]
    refused = [each.submit_seconds for each in found if each.completion is None]
    gaps = [each.timings.inter_token_latency or 0.0 for each in let_in]
    firsts = [each.timings.first_token or 0.0 for each in let_in]
    return Round(
        load=load,
        tokens_per_second=PARAMS["max_tokens"] * len(ended) / (seconds - begin),
        refused=len(refused) / len(found),
        refusal_seconds=arrivals.percentile(refused, 0.99) if refused else None,
        token_seconds=arrivals.percentile(gaps, 0.99),
        first_token_seconds=arrivals.percentile(firsts, 0.95),
    )


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """All loads, in turns."""
    with arrivals.small_model(
        max_num_seqs=PLACES, limits=Limits(waiting_requests=QUEUE), enable_prefix_caching=False
    ) as model:
        capacity(model, 2)  # warm
        found: list[Round] = []
        capacities = []
        for turn in range(rounds):
            rate = capacity(model, seconds / 2)
            capacities.append(rate)
            found += [
                one_round(model, rate, load, seconds, 1000 * turn + index)
                for index, load in enumerate(LOADS)
            ]
    return {
        "capacity_requests_per_second": capacities,
        "lines": [_line(found, load, capacities) for load in LOADS],
    }


def _line(found: Sequence[Round], load: float, capacities: Sequence[float]) -> dict[str, Any]:
    own = [each for each in found if each.load == load]
    times = [each.refusal_seconds for each in own if each.refusal_seconds is not None]
    tokens = PARAMS["max_tokens"]
    goodput = [
        each.tokens_per_second / (tokens * rate) for each, rate in zip(own, capacities, strict=True)
    ]
    return {
        "load": load,
        "goodput": statistics.median(goodput),
        "goodput_rounds": goodput,
        "refused": statistics.median(each.refused for each in own),
        "refusal_ms_p99": 1e3 * statistics.median(times) if times else None,
        "token_ms_p99": 1e3 * statistics.median(each.token_seconds for each in own),
        "first_token_ms_p95": 1e3 * statistics.median(each.first_token_seconds for each in own),
    }


def grid(lines: Sequence[dict[str, Any]]) -> Grid:
    """A row per load."""
    header = ["load", "of capacity", "refused", "refusal p99", "token p99", "first token p95"]
    rows = [
        [
            f"{line['load']:g}",
            f"{line['goodput']:.0%}",
            f"{line['refused']:.0%}",
            NONE if line["refusal_ms_p99"] is None else f"{line['refusal_ms_p99']:.2f} ms",
            f"{line['token_ms_p99']:.1f} ms",
            f"{line['first_token_ms_p95']:.0f} ms",
        ]
        for line in lines
    ]
    return Grid(header=header, rows=rows)


def plot(lines: Sequence[dict[str, Any]]) -> str:
    """What is served, and the pace, over the load."""
    busy = next(line for line in lines if line["load"] == 1.0)["token_ms_p99"]
    return draw(
        [
            Line("served,|of capacity", "#174a7c", [(x["load"], x["goodput"]) for x in lines]),
            Line("refused, of all", "#777777", [(x["load"], x["refused"]) for x in lines]),
            Line(
                "time between tokens,|p99, of that at load 1",
                "#b4552d",
                [(x["load"], x["token_ms_p99"] / busy) for x in lines],
            ),
        ],
        across="requests offered, times what the model serves",
        up="share",
    )


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=PLOT)
    arguments = parser.parse_args()
    result = measure(arguments.seconds, arguments.rounds)
    print(grid(result["lines"]).text())
    described = {"machine": machine.describe(), **result}
    arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")
    arguments.plot.write_text(plot(result["lines"]), encoding="utf8")
    last = result["lines"][-1]
    if last["goodput"] < 0.95 or (last["refusal_ms_p99"] or 0) > 5:
        sys.exit("not what is wanted at ten times the load")


if __name__ == "__main__":
    main()
