"""Instructions of pieces of the scheduler's work, which do not depend on who else is running.

Each count is the difference of two runs under callgrind that differ in how often they do the same,
divided by how often. So setting up costs nothing, and no symbol has to be named.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import core

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE = 0.02
Counts = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something to count.

    Attributes:
        name: In the results.
        kind: Of the example's measurements.
        repeat: The option that says how often.
        few: In the first run.
        many: In the second.
        things: That each repeat does; the count is per thing.
        options: Of both runs.
    """

    name: str
    kind: str
    repeat: str
    few: int
    many: int
    things: int
    options: Mapping[str, int | str] = field(default_factory=dict)


def _steps(rows: str, running: int, policy: str = "fcfs") -> Piece:
    special = [each for each in (rows, policy) if each not in ("plain", "fcfs")]
    name = "_".join(["request_step", str(running), *special])
    options = {"running": running, "rows": rows, "policy": policy}
    return Piece(
        name=name, kind="steps", repeat="steps", few=32, many=96, things=running, options=options
    )


POOL = {"pool": 4096, "blocks": 1000}
PIECES = (
    _steps("plain", 256),
    _steps("plain", 1024),
    _steps("penalties", 256),
    _steps("logprobs", 256),
    _steps("speculation", 256),
    _steps("plain", 256, "fair"),
    _steps("plain", 256, "deadline"),
    Piece(
        name="block_taken_shared_and_freed",
        kind="blocks",
        repeat="repeats",
        few=10,
        many=30,
        things=POOL["blocks"],
        options=POOL,
    ),
    Piece(
        name="block_published_and_evicted",
        kind="prefix",
        repeat="fills",
        few=10,
        many=30,
        things=POOL["blocks"],
        options={**POOL, "lookups": 1},
    ),
    Piece(
        name="block_hashed_found_and_admitted",
        kind="prefix",
        repeat="lookups",
        few=10,
        many=30,
        things=POOL["blocks"],
        options={**POOL, "fills": 1},
    ),
    Piece(
        name="prompt_of_50k_cold_and_cached",
        kind="admission",
        repeat="repeats",
        few=2,
        many=6,
        things=1,
    ),
    Piece(name="fork_of_2000", kind="fork", repeat="repeats", few=100, many=300, things=1),
    Piece(
        name="request_of_2000_cancelled", kind="cancel", repeat="repeats", few=8, many=24, things=1
    ),
)


def missing_tool() -> str | None:
    """Why nothing can be counted here, if so."""
    for command in (["valgrind", "--version"], ["cargo", "--version"]):
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return f"{command[0]} is not installed"
    return None


def toolchain() -> str:
    """Compiler and target: other ones give other counts."""
    result = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True)
    fields = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    return f"rustc {fields['release']}, {fields['host']}"


def collected(report: str) -> int:
    """Instructions of one run, from what callgrind wrote on stderr."""
    found = re.search(r"Collected\s*:\s*(\d+)", report)
    if found is None:
        raise ValueError(f"callgrind did not say how much it collected: {report[-400:]!r}")
    return int(found[1])


def count(example: Path, piece: Piece) -> float:
    """Instructions per thing."""
    few, many = (_run(example, piece, repeats) for repeats in (piece.few, piece.many))
    return (many - few) / (piece.many - piece.few) / piece.things


def _run(example: Path, piece: Piece, repeats: int) -> int:
    options = {**piece.options, piece.repeat: repeats}
    with tempfile.TemporaryDirectory() as folder:
        profile = f"--callgrind-out-file={folder}/profile"
        report = Path(folder) / "report"
        under = ("valgrind", "--tool=callgrind", profile, f"--log-file={report}")
        core.measure(example, piece.kind, under=under, **options)
        return collected(report.read_text(encoding="utf8"))


def compare(found: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """What differs by more than the tolerance, as sentences; both must name the same pieces."""
    problems = [
        f"{name}: counted {'now' if name in found else 'before'} only"
        for name in sorted(found.keys() ^ expected.keys())
    ]
    for name in found.keys() & expected.keys():
        change = found[name] / expected[name] - 1
        if abs(change) > TOLERANCE:
            problems.append(f"{name}: {expected[name]:,.1f} → {found[name]:,.1f} ({change:+.1%})")
    return sorted(problems)
