"""The command line: parse it, run one command, say in one line what went wrong.

Exit codes: 0 done, 1 an error of inferlib, 2 a wrong command line, 130 interrupted. Answers go to
stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from .. import _core
from ..errors import InferlibError
from . import chat, generate, info, replay_log, selfcheck

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "generate": generate,
    "chat": chat,
    "info": info,
    "replay-log": replay_log,
    "selfcheck": selfcheck,
}

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code."""
    namespace = make_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without UTF-8 shows what it can
            stream.reconfigure(errors="replace")
    try:
        code: int = namespace.run(namespace)
    except InferlibError as error:
        sys.stderr.write(f"inferlib: {error}\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `… | head`: what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m inferlib", description="Run language models on this machine."
    )
    parser.add_argument("--version", action="version", version=f"inferlib {_core.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=module.EPILOG
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
