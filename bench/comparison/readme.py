"""The README's section about other engines, written from the results between two markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .table import FAR, OURS, TITLES, engine_grid, facts, target_grid
from .values import COMPARABLE, is_close

if TYPE_CHECKING:
    from pathlib import Path

    from .results import Results

BEGIN = "<!-- comparison: written by bench/compare.py -->"
END = "<!-- end of comparison -->"


def update(readme: Path, results: Results) -> None:
    """Replace what is between the markers.

    Raises:
        ValueError: The markers are not there, once each and in order.
    """
    readme.write_text(
        replaced(readme.read_text(encoding="utf8"), section(results)), encoding="utf8"
    )


def replaced(text: str, new: str) -> str:
    """``text`` with ``new`` between the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the README needs {BEGIN!r} and {END!r}, once each and in this order")
    return f"{before}{BEGIN}\n{new.strip()}\n{END}{after}"


def section(results: Results) -> str:
    """Plot, tables, targets."""
    on = results.measured_on
    rounds = f"{on['rounds']} rounds" if on["rounds"] > 1 else "one round"
    parts = [
        f"`make bench-compare` on {on['date']}, commit {on['commit']}: {on['cores']} cores, "
        f"{on['cpu']}, {on['threads']} threads each,\n"
        f"medians of {rounds} in which the engines took turns on the same token ids. "
        "In brackets: how many times inferlib is as fast.",
        "![Bars per workload and engine](bench/results/compare.svg)",
    ]
    for model in results.models():
        parts += [engine_grid(results, model).markdown(), "\n".join(facts(results, model))]
    parts += _remarks(results)
    met = [outcome for outcome in results.stored["targets"] if outcome["met"]]
    grid = target_grid(results.stored["targets"])
    parts.append(
        f"<details><summary>{len(met)} of {len(grid.rows)} targets are met</summary>\n\n"
        f"{grid.markdown()}\n\n</details>"
    )
    return "\n\n".join(parts)


def _remarks(results: Results) -> list[str]:
    """What a reader must know to read the tables."""
    remarks = []
    far = any(
        not is_close(results, model, key)
        for model in results.models()
        for key in results.engines(model)
    )
    if far:
        remarks.append(
            f"{FAR} Not the file's model any more: its mean divergence from float32 is more than "
            f"{COMPARABLE} times inferlib's,\nbecause it quantizes the weights again while loading "
            "or was given a file that was quantized again."
        )
    missing = {
        f"{TITLES[model]}, {key}": reason
        for model in results.models()
        for key, reason in results.missing(model).items()
        if not key.startswith(OURS)
    }
    if missing:
        listed = "\n".join(f"* {key}: {reason}" for key, reason in missing.items())
        remarks.append(f"Not compared:\n{listed}")
    return remarks
