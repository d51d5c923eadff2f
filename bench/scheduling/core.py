"""The measurements in Rust: an example of ``rust/core``, which cargo builds first."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
Figures = dict[str, float]
"""What one measurement gave; see the example's own documentation for the names."""


def build(checkout: Path = ROOT, target: Path | None = None) -> Path:
    """The example, compiled as users' wheels are; needs cargo.

    Args:
        checkout: Whose sources.
        target: Folder for what cargo makes; otherwise where it usually goes.
    """
    target = target or checkout / os.environ.get("CARGO_TARGET_DIR", "target")
    command = ["cargo", "build", "--release", "--quiet", "-p", "inferlib-core"]
    subprocess.run(
        [*command, "--example", "scheduler", "--target-dir", str(target)], check=True, cwd=checkout
    )
    return target / "release" / "examples" / "scheduler"


def measure(
    example: Path,
    kind: str,
    *,
    stdin: str = "",
    under: tuple[str, ...] = (),
    **options: int | str,
) -> list[Figures]:
    """Run one kind of measurement; a line for each repeat of a replay, else one.

    Args:
        example: What ``build`` gave.
        kind: Which, see the example's documentation.
        stdin: Its standard input.
        under: A command that runs it, such as callgrind.
        options: ``name=value`` becomes ``--name value``.
    """
    command = [*under, str(example), kind]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def least_disturbed(lines: list[Figures], by: str) -> Figures:
    """Of equal measurements the one that others on the machine disturbed least."""
    return min(lines, key=lambda line: line[by])
