"""Did the scheduler become more expensive? Instructions under callgrind, exact to a per mille.

    python -m bench.scheduler_instructions [--write] [--against COMMIT]

Counts per request-step, block and prompt are compared with those in
``bench/results/scheduler-instructions.json``: more than 2 % above them fails, and so does more than
2 % below, since then the next regression would hide there: store them with ``--write``. Another
compiler gives other counts. With another one than the stored ones were made with, nothing is
compared; give ``--against COMMIT``, whose counts are then made first, with the compiler at hand.
Without valgrind nothing is counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.scheduling import core, instructions

RESULTS = Path(__file__).parent / "results" / "scheduler-instructions.json"


def counts_of(example: Path) -> instructions.Counts:
    """All pieces."""
    return {piece.name: instructions.count(example, piece) for piece in instructions.PIECES}


def counts_at(commit: str) -> instructions.Counts:
    """All pieces of another commit, built in a worktree of its own."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        git = ["git", "-C", str(core.ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), commit], check=True)
        try:
            return counts_of(core.build(checkout, Path(folder) / "target"))
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)


def stored_counts(path: Path, toolchain: str) -> instructions.Counts | None:
    """Those to compare with, if they were made with this compiler; says so if not."""
    stored = json.loads(path.read_text(encoding="utf8"))
    if stored["toolchain"] == toolchain:
        counts: instructions.Counts = stored["counts"]
        return counts
    print(
        f"not compared: the stored counts are {stored['toolchain']}'s, this is {toolchain}; "
        "give --against COMMIT, or store these with --write once you trust them"
    )
    return None


def main() -> None:
    """Count, compare or store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store the counts")
    parser.add_argument("--against", metavar="COMMIT", help="compare with this commit's counts")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    reason = instructions.missing_tool()
    if reason:
        print(f"skipped: {reason}")
        return
    toolchain = instructions.toolchain()
    expected = None
    if arguments.against:
        expected = counts_at(arguments.against)
    elif not arguments.write:
        expected = stored_counts(arguments.json, toolchain)
    found = counts_of(core.build())
    for name, value in found.items():
        before = f"  (before: {expected[name]:12,.1f})" if expected and name in expected else ""
        print(f"{name:32s} {value:12,.1f}{before}")
    if arguments.write:
        result = {"toolchain": toolchain, "commit": machine.commit(), "counts": found}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    problems = instructions.compare(found, expected) if expected else []
    if problems:
        sys.exit("instructions changed by more than 2 %:\n  " + "\n  ".join(problems))


if __name__ == "__main__":
    main()
