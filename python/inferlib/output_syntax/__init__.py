"""What a family of models writes around reasoning and calls of tools, one short file per syntax.

A syntax is found from the text of the chat template, which shows the model its own earlier calls
in the same form. ``tool_syntax=`` and ``reasoning_syntax=`` overrule that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .command_r import COMMAND_A, COMMAND_R
from .deepseek import DEEPSEEK
from .glm import GLM
from .granite import GRANITE
from .harmony import HARMONY
from .hermes import HERMES
from .kimi import KIMI
from .llama import LLAMA
from .mistral import MISTRAL
from .phi import PHI
from .qwen_coder import QWEN_CODER
from .reasoning import COMMAND_THINK, MISTRAL_THINK, SEED_THINK, THINK

if TYPE_CHECKING:
    from .syntax import OutputSyntax

TOOL_SYNTAXES = {
    syntax.name: syntax
    for syntax in (
        HARMONY,
        DEEPSEEK,
        MISTRAL,
        KIMI,
        COMMAND_A,
        COMMAND_R,
        GLM,
        QWEN_CODER,
        PHI,
        GRANITE,
        LLAMA,
        HERMES,
    )
}
REASONING_SYNTAXES = {
    syntax.name: syntax for syntax in (HARMONY, THINK, MISTRAL_THINK, COMMAND_THINK, SEED_THINK)
}

# All of the words in a template: the first line that fits is the syntax.
_TOOL_SIGNS: tuple[tuple[tuple[str, ...], OutputSyntax], ...] = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("<｜tool▁calls▁begin｜>",), DEEPSEEK),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<|tool_calls_section_begin|>",), KIMI),
    (("<|START_ACTION|>",), COMMAND_A),
    (("Action:", "tool_name"), COMMAND_R),
    (("<arg_key>",), GLM),
    (("<function=",), QWEN_CODER),
    (("<|/tool_call|>",), PHI),
    (("<|tool|>", "<|/tool|>"), PHI),
    (("<|tool_call|>",), GRANITE),
    (("<|python_tag|>",), LLAMA),
    (("<|start_header_id|>", '"parameters": '), LLAMA),
    (("<tool_call>",), HERMES),
)
_REASONING_SIGNS: tuple[tuple[tuple[str, ...], OutputSyntax], ...] = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("<|START_THINKING|>",), COMMAND_THINK),
    (("[THINK]",), MISTRAL_THINK),
    (("<seed:think>",), SEED_THINK),
    (("<think>",), THINK),
    (("</think>",), THINK),
)


def tool_syntax_of(template: str) -> OutputSyntax | None:
    """How models with this chat template write calls of tools; ``None`` if it does not say."""
    return _first(_TOOL_SIGNS, template)


def reasoning_syntax_of(template: str) -> OutputSyntax | None:
    """How models with this chat template write their reasoning; ``None`` if it does not say."""
    return _first(_REASONING_SIGNS, template)


def _first(
    signs: tuple[tuple[tuple[str, ...], OutputSyntax], ...], template: str
) -> OutputSyntax | None:
    return next(
        (syntax for words, syntax in signs if all(word in template for word in words)), None
    )
