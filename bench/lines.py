"""A plot of lines as SVG, without any package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 60, 30, 170, 50
TICKS = (1, 2, 2.5, 5)


@dataclass(frozen=True, slots=True)
class Line:
    """Points that are joined.

    Attributes:
        name: Beside its end; a ``|`` breaks it.
        ink: Its colour.
        points: ``(x, y)``, in order of ``x``.
        is_bound: Dashed, without dots.
    """

    name: str
    ink: str
    points: Sequence[tuple[float, float]]
    is_bound: bool = False


def step_of(highest: float, most: int = 8) -> float:
    """The distance of grid lines of which at most so many fit below ``highest``."""
    scale = 1e-3
    while True:
        for tick in TICKS:
            if highest / (tick * scale) <= most:
                return tick * scale
        scale *= 10


def draw(lines: Sequence[Line], *, across: str, up: str) -> str:
    """The lines from zero on, over a grid, with titles of both axes."""
    points = [point for line in lines for point in line.points]
    widest = max(x for x, _ in points)
    highest = max(y for _, y in points) * 1.05
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + width * x / widest, TOP + height * (1 - y / highest)

    parts = []
    step = step_of(highest)
    for number in range(int(highest / step) + 1):
        _, y = place(0, number * step)
        parts.append(f'<path d="M{LEFT},{y:.1f} H{WIDTH - RIGHT}" stroke="#dddddd" fill="none"/>')
        parts.append(_text((LEFT - 8, y + 4), f"{number * step:,g}", text_anchor="end"))
    step = step_of(widest, 6)
    for number in range(int(widest / step) + 1):
        x, _ = place(number * step, 0)
        label = f"{number * step:,g}"
        parts.append(_text((x, HEIGHT - BOTTOM + 18), label, text_anchor="middle"))
    parts.append(_text((LEFT + width / 2, HEIGHT - 10), across, text_anchor="middle"))
    parts.append(_text((LEFT, TOP - 12), up))
    for line in lines:
        parts += _line(line, [place(x, y) for x, y in line.points])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'font-family="sans-serif" font-size="12" fill="#333333">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _line(line: Line, places: Sequence[tuple[float, float]]) -> list[str]:
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = 'stroke-dasharray="5 4"' if line.is_bound else 'stroke-width="2.5"'
    parts = [f'<polyline points="{at}" fill="none" stroke="{line.ink}" {style}/>']
    if not line.is_bound:
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.ink}"/>' for x, y in places
        ]
    x, y = places[-1]
    words = line.name.split("|")
    parts += [
        _text((x + 8, y + 4 + 14 * index), word, fill=line.ink) for index, word in enumerate(words)
    ]
    return parts


def _text(at: tuple[float, float], label: str, **attributes: str) -> str:
    given = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}"{given}>{label}</text>'
