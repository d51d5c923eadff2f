"""Calls of tools that a model wrote: what they are once they are taken out of its text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

ToolCallProblem = Literal["no_json", "unfinished", "no_name", "no_arguments"]
"""What is wrong with a call: its text is not in the model's syntax; it breaks off; it names no
tool; its arguments are no object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        name: Of the tool. Whether there is one of that name is for the caller to see.
        arguments: By name, as JSON-like values.
        id: The model's own, or one made from the prompt and the call: the same whenever the same
            request is run, another in every turn of a conversation.
        raw_text: As the model wrote it.
    """

    name: str
    arguments: dict[str, Any]
    id: str
    raw_text: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as OpenAI's messages have it: ``arguments`` is JSON text there."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": arguments},
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"ToolCall({self.name}({arguments}), id={self.id!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedToolCall:
    """What began as a call of a tool and is none; it stays in the text.

    Attributes:
        raw_text: As the model wrote it, markers included.
        problem: What is wrong, for programs.
        message: The same, for people.
    """

    raw_text: str
    problem: ToolCallProblem
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}
