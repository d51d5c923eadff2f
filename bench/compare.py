"""inferlib and other engines, in one run on one machine: speed, quality, loading, memory.

    make bench-compare [PEERS=ENVIRONMENT] [ARGS="--rounds 3 --positions 2000"]

Each engine runs in a process of its own with its model loaded; workload by workload they take
turns, never two at once, in several rounds, on the same files and token ids. Stored are the median,
the best and every round; ratios are medians of the ratios within a round. Tables go to stdout, and
its last line is one JSON object: every target with what was measured.

Quality does not depend on how busy the machine is and takes as long as all else: ``--quality-from
FILE`` takes it from the results of another run with the same versions, files and tier.

The whole result of a full run is in ``bench/results/compare.json``, with the plot beside it and
tables in the README; ``--show`` makes these from it again. A partial run (``--quick``,
``--models``, ``--engines``) goes elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench import machine, models
from bench.comparison import plot, readme, table, targets
from bench.comparison.known_quality import Known
from bench.comparison.measuring import Settings, measure_model
from bench.comparison.results import Results

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "compare.json"
PLOT = HERE / "results" / "compare.svg"
README = HERE.parent / "README.md"
WORK = HERE.parent / "target" / "bench-compare"
PARTIAL = WORK / "partial.json"
QUICK = {"rounds": 1, "positions": 1020}


def main() -> None:
    """Measure, or only show what was measured."""
    arguments = parse()
    if arguments.show:
        stored = json.loads(arguments.json.read_text(encoding="utf8"))
    else:
        stored = measure(arguments)
    results = Results(stored)
    stored["targets"] = targets.outcomes(results, targets.load_reasons())
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf8")
    if arguments.json == RESULTS:
        readme.update(README, results)
    svg = PLOT if arguments.json == RESULTS else arguments.json.with_suffix(".svg")
    plot.draw(arguments.peers, arguments.json, svg)
    print(table.render(results))
    print(json.dumps(table.summary(results)))


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="environment of other engines")
    parser.add_argument("--vllm", type=Path, help="environment of vLLM")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--positions", type=int, default=20_480, help="of texts, for quality")
    parser.add_argument("--quality-from", type=Path, help="results that hold the quality")
    parser.add_argument("--quick", action="store_true", help="one round, little text")
    parser.add_argument("--models", nargs="+", choices=["smollm2", "gemma"])
    parser.add_argument("--engines", nargs="+", help="only keys that begin so; ours is always in")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--json", type=Path, help="where results are, instead of bench/results")
    parser.add_argument("--show", action="store_true", help="do not measure; read --json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.positions = QUICK["rounds"], QUICK["positions"]
    partial = arguments.quick or arguments.models or arguments.engines
    default = PARTIAL if partial else RESULTS
    arguments.json = (arguments.json or default).resolve()
    return arguments


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure all models."""
    settings = Settings(
        peers=arguments.peers.absolute(),
        vllm=arguments.vllm and arguments.vllm.absolute(),
        work=WORK,
        threads=arguments.threads,
        rounds=arguments.rounds,
        positions=arguments.positions,
        engines=tuple(arguments.engines or ()),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    described = machine.describe()
    known = None
    if arguments.quality_from is not None:
        known = Known.of(json.loads(arguments.quality_from.read_text(encoding="utf8")), described)
    started = time.strftime("%Y-%m-%d")
    return {
        "measured_on": {
            "date": started,
            **described,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
        },
        "models": {
            model: measure_model(model, getattr(models, model)(), settings, known)
            for model in arguments.models or ("smollm2", "gemma")
        },
    }


if __name__ == "__main__":
    main()
