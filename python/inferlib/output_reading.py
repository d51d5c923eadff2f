"""Which syntax a model's outputs have, and what of it a request wants to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .errors import RequestError
from .output_syntax import (
    REASONING_SYNTAXES,
    TOOL_SYNTAXES,
    reasoning_syntax_of,
    tool_syntax_of,
)
from .output_syntax.parser import MarkerTables, OutputReading, region_at_end
from .tools import tool_schemas
from .validation import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._core import Tokenizer
    from .output_syntax.syntax import OutputSyntax, Region

ToolSyntax = Literal[
    "auto",
    "off",
    "harmony",
    "deepseek",
    "mistral",
    "kimi",
    "command_a",
    "command_r",
    "glm",
    "qwen_coder",
    "phi",
    "granite",
    "llama",
    "hermes",
]
ReasoningSyntax = Literal[
    "auto", "off", "harmony", "think", "mistral_think", "command_think", "seed_think"
]


class OutputReader:
    """Decides how to read the outputs of a model's conversations.

    Args:
        template: Text of the chat template; ``None`` if there is none.
        tokenizer: ``None`` if there is none.
    """

    def __init__(self, template: str | None, tokenizer: Tokenizer | None) -> None:
        self._template = template or ""
        self._tokenizer = tokenizer
        self._tables: dict[tuple[str, str, bool], tuple[MarkerTables, bool]] = {}
        self._special_texts: frozenset[str] | None = None

    def reading(
        self,
        prompt: str,
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        unfinished: str | None = None,
        tool_syntax: ToolSyntax = "auto",
        reasoning_syntax: ReasoningSyntax = "auto",
        skip_special_tokens: bool = True,
    ) -> OutputReading | None:
        """Return how to read the answer to a prompt; ``None``: it is all content.

        Args:
            prompt: As the template wrote it.
            tools: That the model was told of; without any, nothing is a call, unless
                ``tool_syntax`` names a syntax.
            unfinished: The message that the answer continues.
            tool_syntax: Instead of what the template says.
            reasoning_syntax: The same.
            skip_special_tokens: Special tokens that are no markers are left out, too.

        Raises:
            RequestError: There is no such syntax.
        """
        calls = self._chosen("tool_syntax", tool_syntax, TOOL_SYNTAXES)
        calls = tool_syntax_of(self._template) if tool_syntax == "auto" else calls
        thoughts = self._chosen("reasoning_syntax", reasoning_syntax, REASONING_SYNTAXES)
        if reasoning_syntax == "auto":
            thoughts = reasoning_syntax_of(self._template)
        syntaxes = [thoughts] if thoughts is not None else []
        wants_calls = bool(tools) or tool_syntax != "auto"
        if calls is not None and wants_calls and calls not in syntaxes:
            syntaxes.append(calls)
        if not syntaxes:
            return None
        tables, with_special_tokens = self._made(syntaxes, skip_special_tokens=skip_special_tokens)
        starts_in = region_at_end(tables.regions, prompt) if unfinished is None else None
        return OutputReading(
            tables=tables,
            starts_in=starts_in,
            written=unfinished or "",
            schemas=tool_schemas(tools or ()),
            with_special_tokens=with_special_tokens,
            salt=prompt,
            reasoning_syntax="off" if thoughts is None else thoughts.name,
            tool_syntax=calls.name if calls is not None and wants_calls else "off",
        )

    @staticmethod
    def _chosen(
        field: str, name: object, syntaxes: Mapping[str, OutputSyntax]
    ) -> OutputSyntax | None:
        if isinstance(name, str) and name in ("auto", "off"):
            return None
        if not isinstance(name, str) or name not in syntaxes:
            known = ", ".join(f'"{each}"' for each in ("auto", "off", *syntaxes))
            raise RequestError(f"{field} must be one of {known}, not {shown(name)}", field=field)
        return syntaxes[name]

    def _made(
        self, syntaxes: list[OutputSyntax], *, skip_special_tokens: bool
    ) -> tuple[MarkerTables, bool]:
        """The tables for some syntaxes, made once; and whether markers are special tokens."""
        names = [syntax.name for syntax in syntaxes]
        key = (names[0], names[-1], skip_special_tokens)
        made = self._tables.get(key)
        if made is None:
            regions: list[Region] = [region for syntax in syntaxes for region in syntax.regions]
            markers = frozenset().union(*(syntax.markers for syntax in syntaxes))
            special = self._special()
            is_special = not special.isdisjoint(markers)
            dropped = special - markers if is_special and skip_special_tokens else frozenset()
            made = self._tables[key] = MarkerTables(regions, dropped), is_special
        return made

    def _special(self) -> frozenset[str]:
        """Texts of the tokenizer's special tokens."""
        if self._special_texts is None:
            tokenizer = self._tokenizer
            ids = [] if tokenizer is None else tokenizer.special_ids
            texts = (tokenizer.decode([i], skip_special=False) for i in ids if tokenizer)
            self._special_texts = frozenset(text for text in texts if text.strip())
        return self._special_texts
