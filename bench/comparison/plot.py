"""The README's plot: one panel per workload, a bar per engine, every axis from zero.

    python -m bench.comparison.plot compare.json compare.svg [compare.png]

Runs in the environment of the other engines, which has matplotlib; ours does not need it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import Results
from .table import FAR, TITLES
from .values import COMPARABLE, MEGABYTE, is_close

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Value = Callable[[Results, str, str], float | None]
    Panel = tuple[str, str, Value]

ROOT = Path(__file__).parent.parent.parent
COLUMNS = 5
WIDTH, INCHES = 12.5, 0.235
"""Of the picture; and of one bar with the space around it."""
FOOTNOTE = (
    f"{FAR} Hatched: the weights are quantized again, and the mean divergence from float32 is more "
    f"than {COMPARABLE} times inferlib's."
)
HEADING, TITLE = 1.6, 2.4
"""Heights in bars."""
OURS, INK, MUTED, FAINT, PAPER = "#c2410c", "#1f2937", "#6b7280", "#9ca3af", "#ffffff"
OTHERS = {
    "inferlib": "#ea9a6b",
    "llama.cpp": "#5b7aa8",
    "OpenVINO GenAI": "#6f9f86",
    "CTranslate2": "#9a86b3",
    "vLLM": "#a8a29e",
}


def draw(peers: Path, results: Path, svg: Path) -> None:
    """Draw with the other environment's matplotlib; say so and go on if it has none."""
    command = [peers / "bin" / "python", "-m", "bench.comparison.plot", results, svg]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if finished.returncode:
        last = finished.stderr.strip().splitlines()[-1:]
        print("no plot:", *last, file=sys.stderr)


def main() -> None:
    """Read the results, write pictures."""
    source, *pictures = map(Path, sys.argv[1:])
    results = Results(json.loads(source.read_text(encoding="utf8")))
    figure = picture(results)
    for path in pictures:
        figure.savefig(path, facecolor=PAPER, dpi=150, metadata=_metadata(path))


def _metadata(path: Path) -> dict[str, None]:
    return {"Date": None} if path.suffix == ".svg" else {}


def picture(results: Results) -> Any:
    """All panels."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 8,
            "hatch.linewidth": 1.6,
            "svg.fonttype": "path",
            "svg.hashsalt": "inferlib",
        }
    )
    from matplotlib import pyplot

    groups = [(model, panels) for model, panels in PANELS.items() if results.engines(model)]
    heights = [
        HEADING + math.ceil(len(panels) / COLUMNS) * (len(_keys(results, model)) + TITLE)
        for model, panels in groups
    ]
    figure = pyplot.figure(figsize=(WIDTH, INCHES * sum(heights)), layout="constrained")
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)
    for (model, panels), (part,) in zip(groups, parts, strict=True):
        heading = f"{TITLES[model]}, {results.model(model)['format']}"
        part.suptitle(heading, x=0.004, ha="left", fontsize=10, fontweight="bold", color=INK)
        axes = part.subplots(math.ceil(len(panels) / COLUMNS), COLUMNS, squeeze=False).flatten()
        for index, (axis, panel) in enumerate(zip(axes, panels, strict=False)):
            _panel(axis, results, model, panel, names=index % COLUMNS == 0)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
    if any(
        not is_close(results, model, key) for model, _ in groups for key in _keys(results, model)
    ):
        parts[-1, 0].supxlabel(FOOTNOTE, x=0.004, ha="left", fontsize=7.5, color=MUTED)
    return figure


def _keys(results: Results, model: str) -> list[str]:
    return [key for key, engine in results.engines(model).items() if engine["role"] != "drafting"]


def _panel(axis: Any, results: Results, model: str, panel: Panel, *, names: bool) -> None:
    """Horizontal bars with their values written at the ends; hatched where the model is another."""
    title, unit, value = panel
    keys = _keys(results, model)
    near = [is_close(results, model, key) for key in keys]
    values = [value(results, model, key) for key in keys]
    largest = max([number for number in values if number is not None], default=1.0)
    places = range(len(keys))
    axis.barh(
        places,
        [number or 0 for number in values],
        color=[_color(results, model, key) for key in keys],
        hatch=[None if close else "////" for close in near],
        edgecolor=PAPER,
        linewidth=0,
        height=0.72,
    )
    for place, number, key in zip(places, values, keys, strict=True):
        role = results.engines(model)[key]["role"]
        axis.annotate(
            "not measured" if number is None else _short(number),
            (number or 0, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=FAINT if number is None else INK,
            fontweight="bold" if role == "ours" and number is not None else "normal",
        )
    axis.set_xlim(0, largest * 1.32)
    axis.set_ylim(len(keys) - 0.5, -0.5)
    labels = [key if close else f"{key} {FAR}" for key, close in zip(keys, near, strict=True)]
    axis.set_yticks(places, labels if names else [])
    axis.tick_params(length=0, colors=INK)
    axis.set_xticks([])
    axis.set_title(title, fontsize=8.5, color=INK, loc="left", pad=15)
    axis.annotate(
        unit,
        (0, 1),
        xytext=(0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7,
        color=MUTED,
    )
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color(FAINT)


def _color(results: Results, model: str, key: str) -> str:
    engine = results.engines(model)[key]
    return OURS if engine["role"] == "ours" else OTHERS.get(engine["name"], FAINT)


def _short(number: float) -> str:
    if number >= 10:
        return f"{number:,.0f}"
    return f"{number:.2f}" if number >= 0.095 else f"{number:.2g}"


def _speed(workload: str) -> Value:
    def value(results: Results, model: str, key: str) -> float | None:
        cell = results.figure(model, key, workload)
        return None if cell is None else cell["median"]

    return value


def _fresh(name: str, scale: float) -> Value:
    def value(results: Results, model: str, key: str) -> float | None:
        fresh = results.fresh(model, key)
        return None if fresh is None else fresh[name]["median"] / scale

    return value


def _quality(name: str) -> Value:
    def value(results: Results, model: str, key: str) -> float | None:
        quality = results.quality(model, key)
        return None if quality is None else quality[name]

    return value


MORE, LESS = "tokens/s, more is better", "less is better"
PANELS: dict[str, Sequence[Panel]] = {
    "smollm2": (
        ("Prefill, 512 tokens", MORE, _speed("prefill_512")),
        ("Decode, 1 sequence after 16", MORE, _speed("decode_16")),
        ("Decode, 1 sequence after 1,024", MORE, _speed("decode_1024")),
        ("Decode, 8 sequences together", MORE, _speed("batch_8")),
        ("Decode, 32 sequences together", MORE, _speed("batch_32")),
        ("64 requests of 96 + 64 at once", MORE, _speed("mixed_64")),
        ("Mean KL divergence to float32", LESS, _quality("kld_mean")),
        ("99.9 % KL divergence to float32", LESS, _quality("kld_99.9")),
        ("Load to first token", f"seconds, {LESS}", _fresh("seconds", 1)),
        ("Peak memory, 2,048 tokens of KV", f"MB, {LESS}", _fresh("filled_peak_bytes", MEGABYTE)),
    ),
    "gemma": (
        ("Prefill, 512 tokens", MORE, _speed("prefill_512")),
        ("Decode, 1 sequence after 16", MORE, _speed("decode_16")),
        ("Decode, 32 sequences together", MORE, _speed("batch_32")),
        ("Mean KL divergence to float32", LESS, _quality("kld_mean")),
        ("Load to first token", f"seconds, {LESS}", _fresh("seconds", 1)),
    ),
}


if __name__ == "__main__":
    main()
