"""Completions in notebooks: each token on a colour that says how likely it was.

What a model writes is untrusted: everything is escaped.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_TOKENS = 4000
"""A notebook is slow with more; the rest is counted, not shown."""
MAX_ALTERNATIVES = 8

# Text keeps the notebook's colour, light or dark: only the background is ours.
_BOX = (
    "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6;font-family:ui-monospace,monospace"
)
_FAINT = "opacity:.6;font-size:.85em"


class _Logprob(Protocol):
    @property
    def logprob(self) -> float: ...
    @property
    def rank(self) -> int: ...
    @property
    def decoded_token(self) -> str | None: ...


class _Output(Protocol):
    """A ``CompletionOutput``, which stands above this file."""

    @property
    def index(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> Sequence[Mapping[int, _Logprob]] | None: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def confidence(self) -> float | None: ...


def heat_map(prompt: str | None, outputs: Sequence[_Output]) -> str:
    """Return HTML for a prompt and what was generated from it.

    The background's opacity is one minus the probability; the tooltip has the probability, the rank
    and the most likely tokens, as far as log-probabilities were asked for.
    """
    parts = ["<div>"]
    if prompt is not None:
        parts.append(
            f'<details><summary style="{_FAINT}">prompt, {len(prompt):,} characters</summary>'
            f'<div style="{_BOX};{_FAINT}">{_escaped(prompt)}</div></details>'
        )
    parts += [_output(output, is_alone=len(outputs) == 1) for output in outputs]
    return "".join((*parts, "</div>"))


def _output(output: _Output, *, is_alone: bool) -> str:
    facts = [] if is_alone else [f"output {output.index}"]
    facts += [f"{len(output.token_ids):,} tokens", f"finish_reason {output.finish_reason}"]
    if output.confidence is not None:
        facts.append(f"confidence {output.confidence:.3f}")
    if output.logprobs is None:
        body = _escaped(output.text)
    else:
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        spans = [_token(token_id, row) for token_id, row in list(pairs)[:MAX_TOKENS]]
        if len(output.token_ids) > MAX_TOKENS:
            rest = len(output.token_ids) - MAX_TOKENS
            spans.append(f'<span style="{_FAINT}"> … {rest:,} more tokens</span>')
        body = "".join(spans)
    return (
        f'<div style="{_BOX}">{body}</div><div style="{_FAINT}">{_escaped(", ".join(facts))}</div>'
    )


def _token(token_id: int, row: Mapping[int, _Logprob]) -> str:
    drawn = row[token_id]
    probability = _probability(drawn)
    lines = [f"{probability:.1%}, rank {drawn.rank}, token {token_id}"]
    likely = sorted(row.items(), key=lambda item: item[1].rank)[:MAX_ALTERNATIVES]
    lines += [f"{_probability(entry):.1%} {_name(number, entry)!r}" for number, entry in likely]
    return (
        f'<span title="{"&#10;".join(map(_escaped, lines))}" '
        f'style="background:rgba(220,50,47,{0.75 * (1 - probability):.2f})">'
        f"{_escaped(_shown(_name(token_id, drawn)))}</span>"
    )


def _probability(entry: _Logprob) -> float:
    return min(1.0, math.exp(entry.logprob)) if entry.logprob == entry.logprob else 0.0


def _name(token_id: int, entry: _Logprob) -> str:
    return f"[{token_id}]" if entry.decoded_token is None else entry.decoded_token


def _shown(text: str) -> str:
    """Line breaks are seen, and break the line; a token without text is seen, too."""
    return text.replace("\n", "↵\n") or "∅"


def _escaped(text: str) -> str:
    # Lone surrogates and control characters are no HTML.
    return escape("".join(each if _is_shown(each) else "�" for each in text))


def _is_shown(character: str) -> bool:
    return (
        character in "\n\t"
        or character.isprintable()
        or (character.isspace() and not character.isascii())
    )
