"""Can a tenant that floods keep another one waiting?

    python -m bench.fairness [--json FILE] [--plot FILE]

A quiet tenant sends a short request every 25 steps; another always has 0 to 256 long ones in the
scheduler, which runs 16 at a time. How many steps the quiet one waits for its first token, first
come first served and by fair share; beside the bound that fair share states. A step is the unit of
time and the forward pass is pretended, so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine
from bench.comparison.table import Grid
from bench.lines import Line, draw
from bench.scheduling import core

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "fairness.json"
PLOT = ROOT / "docs" / "fairness.svg"
POLICIES = {"fcfs": "first come, first served", "fair": "fair share"}
FLOODS = (0, 8, 16, 32, 64, 128, 256)
INK = {"fcfs": "#b4552d", "fair": "#174a7c"}


def measure() -> list[core.Figures]:
    """A line per policy and flood."""
    example = core.build()
    lines = []
    for policy in POLICIES:
        for flood in FLOODS:
            lines += core.measure(example, "fairness", policy=policy, flood=flood)
    return lines


def broken(lines: Sequence[core.Figures]) -> list[str]:
    """Where fair share kept the quiet tenant waiting for longer than alone and the bound."""
    fair = [line for line in lines if line["policy"] == "fair"]
    alone = next(line for line in fair if line["flood"] == 0)["wait_steps"]
    return [
        f"flood {line['flood']:.0f}: {line['wait_steps']:.0f} steps"
        for line in fair
        if line["wait_steps"] > alone + line["wait_bound_steps"]
    ]


def grid(lines: Sequence[core.Figures]) -> Grid:
    """Floods by policies."""
    header = ["requests of the flood", *POLICIES.values(), "bound, steps"]
    rows = []
    for flood in FLOODS:
        of = {line["policy"]: line for line in lines if line["flood"] == flood}
        waits = [f"{of[policy]['wait_steps']:,.0f}" for policy in POLICIES]
        rows.append([f"{flood}", *waits, f"{of['fair']['wait_bound_steps']:,.0f}"])
    return Grid(header=header, rows=rows)


def plot(lines: Sequence[core.Figures]) -> str:
    """Median wait over the flood, as SVG."""
    bound = [line for line in lines if line["policy"] == "fair" and line["flood"] >= FLOODS[2]]
    drawn = [
        Line(
            name,
            INK[policy],
            [(line["flood"], line["wait_steps"]) for line in lines if line["policy"] == policy],
        )
        for policy, name in POLICIES.items()
    ]
    dashed = [(line["flood"], line["wait_bound_steps"]) for line in bound]
    return draw(
        [Line("bound of fair share", "#777777", dashed, is_bound=True), *drawn],
        across="requests that the flooding tenant always has in the scheduler",
        up="steps until the quiet tenant's first token, median",
    )


def main() -> None:
    """Measure, print, store; fail if the bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=PLOT)
    arguments = parser.parse_args()
    lines = measure()
    print(grid(lines).text())
    result = {"commit": machine.commit(), "lines": lines}
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    arguments.plot.write_text(plot(lines), encoding="utf8")
    problems = broken(lines)
    if problems:
        sys.exit("longer than the bound: " + "; ".join(problems))


if __name__ == "__main__":
    main()
