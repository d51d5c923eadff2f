"""``replay-log``: verify that a scheduler decides again what its log says."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .._core import replay_decisions

if TYPE_CHECKING:
    import argparse

HELP = "Replay a decision log of the scheduler, and verify every decision."
EPILOG = (
    "A log is written by Model.from_pretrained(..., decision_log=FILE). "
    "Example: python -m inferlib replay-log decisions.log"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("log", metavar="FILE", help="the log")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(namespace: argparse.Namespace) -> int:
    """Write what the log held to stdout."""
    facts = replay_decisions(namespace.log)
    if namespace.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{name:<24}{value}\n" for name, value in facts.items()))
        sys.stdout.write("every decision came out the same\n")
    return 0
