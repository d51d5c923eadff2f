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
from bench.scheduling import core

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "fairness.json"
PLOT = ROOT / "docs" / "fairness.svg"
POLICIES = {"fcfs": "first come, first served", "fair": "fair share"}
FLOODS = (0, 8, 16, 32, 64, 128, 256)
INK = {"fcfs": "#b4552d", "fair": "#174a7c"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 60, 20, 170, 50


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
    highest = max(line["wait_steps"] for line in lines) * 1.05
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(flood: float) -> float:
        return LEFT + across * flood / FLOODS[-1]

    def y(steps: float) -> float:
        return TOP + down * (1 - steps / highest)

    def text(at: tuple[float, float], label: str, **attributes: str) -> str:
        given = "".join(
            f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items()
        )
        return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}"{given}>{label}</text>'

    parts = []
    for steps in range(0, int(highest), 400):
        parts.append(
            f'<path d="M{LEFT},{y(steps):.1f} H{WIDTH - RIGHT}" stroke="#dddddd" fill="none"/>'
        )
        parts.append(text((LEFT - 8, y(steps) + 4), f"{steps:,}", text_anchor="end"))
    parts += [
        text((x(flood), HEIGHT - BOTTOM + 18), f"{flood}", text_anchor="middle")
        for flood in FLOODS
        if flood == 0 or flood >= FLOODS[-1] / 4
    ]
    title = "requests that the flooding tenant always has in the scheduler"
    middle = (LEFT + across / 2, HEIGHT - 10)
    parts.append(text(middle, title, text_anchor="middle"))
    parts.append(text((LEFT, TOP - 6), "steps until the quiet tenant's first token, median"))
    bound = [line for line in lines if line["policy"] == "fair" and line["flood"] >= FLOODS[2]]
    at = " ".join(f"{x(line['flood']):.1f},{y(line['wait_bound_steps']):.1f}" for line in bound)
    parts.append(f'<polyline points="{at}" fill="none" stroke="#777777" stroke-dasharray="5 4"/>')
    end = (x(FLOODS[-1]) + 8, y(bound[-1]["wait_bound_steps"]) + 4)
    parts.append(text(end, "bound of fair share", fill="#777777"))
    for policy, name in POLICIES.items():
        chosen = [line for line in lines if line["policy"] == policy]
        points = [(x(line["flood"]), y(line["wait_steps"])) for line in chosen]
        at = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(
            f'<polyline points="{at}" fill="none" stroke="{INK[policy]}" stroke-width="2.5"/>'
        )
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{INK[policy]}"/>' for a, b in points
        ]
        parts.append(text((points[-1][0] + 8, points[-1][1] + 4), name, fill=INK[policy]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'font-family="sans-serif" font-size="12" fill="#333333">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
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
