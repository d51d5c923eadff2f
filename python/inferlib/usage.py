"""What a request took: time and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a request's time went, in seconds since it was submitted unless said otherwise.

    Attributes:
        queued: Until its first token was scheduled.
        prefill: From then until its first output token; ``None`` if there was none.
        first_token: Until its first output token; ``None`` if there was none.
        first_visible_token: Until the first output token that showed as text; ``None`` if none did.
        total: Until it ended.
        inter_token_latency: Mean time between two output tokens; ``None`` with fewer than two.
        tokens_per_second: Output tokens (of all sequences) per second since the first one;
            ``None`` with fewer than two.
        num_preemptions: How often it was taken out of the batch and computed again.
    """

    queued: float
    prefill: float | None
    first_token: float | None
    first_visible_token: float | None
    total: float
    inter_token_latency: float | None
    tokens_per_second: float | None
    num_preemptions: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How many tokens a request took.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        cached_tokens: How many of them the prefix cache served.
        output_tokens: Generated tokens of all sequences.
        drafted_tokens: Tokens that were drafted for it and verified by the model.
        accepted_tokens: Those of them that the model generates, too: steps saved.
        draft_model_drafted_tokens: Of the drafted tokens, those of the draft model.
        draft_model_accepted_tokens: Those of these that the model generates, too.
        forced_tokens: Tokens that the structure of the text, or the end of the reasoning, left no
            choice about: steps saved, too.
        reasoning_tokens: Of the output tokens of ``chat``, those of reasoning, without markers.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_model_drafted_tokens: int = 0
    draft_model_accepted_tokens: int = 0
    forced_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output."""
        return self.prompt_tokens + self.output_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "draft_model_drafted_tokens": self.draft_model_drafted_tokens,
            "draft_model_accepted_tokens": self.draft_model_accepted_tokens,
            "forced_tokens": self.forced_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "total_tokens": self.total_tokens,
        }
