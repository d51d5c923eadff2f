"""``selfcheck``: whether inferlib is a good guest on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..capabilities import capabilities
from .guest_checks import CHECKS

if TYPE_CHECKING:
    import argparse

HELP = "Verify on this machine what inferlib promises to the process that it runs in."
EPILOG = (
    "Each check runs in an interpreter of its own, with a tiny model of random numbers; no file "
    "and no network is needed. Example: python -m inferlib selfcheck"
)
SECONDS = 120
EXIT_PROBLEM = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}")


def run(namespace: argparse.Namespace) -> int:
    """Write what was found to stdout; the exit code says whether all is well."""
    unknown = [name for name in namespace.checks if name not in CHECKS]
    if unknown:
        sys.stderr.write(f"inferlib: there is no check {unknown[0]!r}: {', '.join(CHECKS)}\n")
        return 2
    results = {}
    for name in namespace.checks or CHECKS:
        results[name] = check(name)
        if not namespace.json:
            ok, text = "problem" not in results[name], next(iter(results[name].values()))
            sys.stdout.write(f"{'ok' if ok else 'PROBLEM':<9}{name:<14}{text}\n")
            sys.stdout.flush()
    if namespace.json:
        sys.stdout.write(json.dumps({"capabilities": capabilities(), **results}, indent=2) + "\n")
    return EXIT_PROBLEM if any("problem" in result for result in results.values()) else 0


PACKAGE = __name__.rpartition(".cli.")[0]
"""What is checked, by the name that it has in this process."""


def check(name: str, package: str = PACKAGE) -> dict[str, str]:
    """Run one check in a fresh interpreter: ``{"found": …}`` or ``{"problem": …}``."""
    script = Path(__file__).with_name("guest_checks.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        process = subprocess.run(  # noqa: S603  # this interpreter, this package's file
            [sys.executable, "-P", "-W", "default", str(script), package, name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"it hangs: no end within {SECONDS} s"}
    if process.returncode != 0:
        return {"problem": f"exit code {process.returncode}: {process.stderr.strip()[-500:]}"}
    lines = process.stdout.splitlines()
    if process.stderr or len(lines) != 1:
        return {"problem": f"it writes: {(process.stdout + process.stderr).strip()[:500]}"}
    result: dict[str, str] = json.loads(lines[0])
    return result
