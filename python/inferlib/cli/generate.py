"""``generate``: continue a text, streaming."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .options import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
    write_timings,
)

if TYPE_CHECKING:
    import argparse

HELP = "Continue a text."
EPILOG = 'Example: python -m inferlib generate smollm2 "The capital of France is" -t 0 -n 16'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "prompt", metavar="TEXT", nargs="?", default="-", help="what to continue; - is stdin"
    )
    add_sampling_arguments(parser)


def run(namespace: argparse.Namespace) -> int:
    """Write the continuation to stdout as it comes."""
    prompt = sys.stdin.read() if namespace.prompt == "-" else namespace.prompt
    with load_model(namespace) as model:
        stream = model.stream(prompt, **sampling_options(namespace))
        for delta in stream:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        if namespace.timings and stream.completion is not None:
            write_timings(stream.completion)
    return 0
