"""``chat``: a conversation in the terminal, streaming."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .options import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
    write_timings,
)

if TYPE_CHECKING:
    import argparse

    from ..model import Model

HELP = "Chat in the terminal."
EPILOG = "Ctrl-C ends an answer, Ctrl-D the chat. /reset forgets the conversation, /exit leaves."

_COMMANDS = "/reset forgets the conversation, /exit leaves; Ctrl-C ends an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--chat-template",
        metavar="FILE",
        type=Path,
        help="a template to use instead of the model's",
    )
    add_sampling_arguments(parser)


def run(namespace: argparse.Namespace) -> int:
    """Read messages from stdin until it ends; answers go to stdout."""
    template = None
    if namespace.chat_template is not None:
        template = _read_template(namespace.chat_template)
    options = {"max_tokens": None, **sampling_options(namespace)}
    with load_model(namespace, chat_template=template) as model:
        Conversation(model, options, system=namespace.system, timings=namespace.timings).run()
    return 0


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"the chat template cannot be read: {error}", field="chat_template"
        ) from None


class Conversation:
    """One conversation with a person at a terminal, or with a file."""

    def __init__(
        self, model: Model, options: dict[str, Any], *, system: str | None, timings: bool
    ) -> None:
        self._model = model
        self._options = options
        self._timings = timings
        self._beginning = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._beginning)
        self._is_terminal = sys.stdin.isatty()

    def run(self) -> None:
        """Answer until the input ends."""
        if self._is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # gives input() its editing and history
            sys.stderr.write(f"{_COMMANDS}\n")
        while (line := self._read()) is not None:
            match line.strip():
                case "":
                    continue
                case "/exit" | "/quit":
                    return
                case "/reset":
                    self._messages = list(self._beginning)
                case "/help":
                    sys.stderr.write(f"{_COMMANDS}\n")
                case text:
                    self._answer(text)

    def _read(self) -> str | None:
        """Read the next message; ``None`` at the end. Ctrl-C drops what was typed."""
        while True:
            try:
                return input("> " if self._is_terminal else "")
            except EOFError:
                if self._is_terminal:
                    sys.stdout.write("\n")
                return None
            except KeyboardInterrupt:
                if not self._is_terminal:
                    raise
                sys.stdout.write("\n")

    def _answer(self, text: str) -> None:
        """Stream the answer to a message, and remember both as far as it came."""
        messages = [*self._messages, {"role": "user", "content": text}]
        answer, is_thinking = "", False
        try:
            stream = self._model.stream_chat(messages, **self._options)
        except RequestError as error:  # too long, or refused by the template: the chat goes on
            sys.stderr.write(f"inferlib: {error}\n")
            return
        try:
            for delta in stream:
                answer += delta.text
                sys.stdout.write(delta.reasoning)
                is_thinking = is_thinking or bool(delta.reasoning)
                if is_thinking and delta.text:
                    sys.stdout.write("\n\n")
                    is_thinking = False
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            if not self._is_terminal:
                raise
        sys.stdout.write("\n")
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        if self._timings and stream.completion is not None:
            write_timings(stream.completion)
