"""How the comparison talks to an engine: a process per engine, one JSON object per line.

    {"ask": "decode", "prompts": [[…]], "num_tokens": 48}   →   {"answer": 0.0021}

A process loads its model once, then answers requests from stdin until it is closed; in between it
is expected to be idle, since another engine is being measured. What an engine prints itself goes to
stderr. A request that the engine cannot do is answered with ``{"error": reason}``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.divergence import TopLogprobs

    Prompt = list[int]


class Adapter(Protocol):
    """An engine with one model loaded. Times are seconds, of the work alone: no set-up.

    The constructor takes ``(model: str, *, threads: int, **options)`` and imports the engine: its
    import is part of what loading costs.
    """

    version: str

    def first_token(self, text: str) -> None:
        """Make one token from a text: what a user waits for after loading."""

    def prefill(self, prompt: Prompt) -> float:
        """From a prompt to the distribution of its next token; nothing of it is cached."""

    def decode(self, prompts: list[Prompt], num_tokens: int) -> float:
        """Seconds per token of each sequence, all decoded together after all prompts are done."""

    def serve(self, prompts: list[Prompt], num_tokens: int) -> float:
        """From all prompts at once to ``num_tokens`` tokens for each of them."""

    def score(self, token_ids: Prompt, top: int) -> TopLogprobs:
        """What is expected after each token but the last, in the engine's own arithmetic."""


def answer(adapter: Adapter, message: Mapping[str, Any]) -> Mapping[str, object]:
    """Do what one message asks."""
    ask = message["ask"]
    arguments = {name: value for name, value in message.items() if name != "ask"}
    try:
        if ask == "score":  # an array is handed over as a file
            adapter.score(arguments["token_ids"], arguments["top"]).save(arguments["path"])
            return {"answer": None}
        return {"answer": getattr(adapter, ask)(**arguments)}
    except Exception as error:  # whatever an engine raises is its answer
        return {"error": one_line(error)}


def one_line(error: BaseException) -> str:
    """An error as a reason in a table, without the folders of whoever built or runs the engine."""
    words = (word.rpartition("/")[2] if word[0] == "/" else word for word in str(error).split())
    text = " ".join(words) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}…"


def take_stdout() -> IO[str]:
    """The pipe to the comparison; whatever else is printed goes to stderr from now on."""
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf8")
    os.dup2(2, 1)
    return channel


def main() -> None:
    """Load, say so, answer until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", help="module with a class Engine, e.g. bench.peers.llama_cpp")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()
    channel = take_stdout()

    def say(message: Mapping[str, object]) -> None:
        channel.write(json.dumps(message) + "\n")

    try:
        engine = import_module(arguments.adapter).Engine
        adapter = engine(arguments.model, threads=arguments.threads, **arguments.options)
    except Exception as error:  # the reason why this engine is missing
        say({"error": one_line(error)})
        return
    say({"answer": adapter.version})
    for line in sys.stdin:
        say(answer(adapter, json.loads(line)))


if __name__ == "__main__":
    main()
