"""How much one request may ask for, and how many may wait: refused at submission, by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from .errors import GrammarError, RequestError
from .sampling_checks import (
    MAX_BAD_WORDS,
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOPS,
    STRUCTURES,
)
from .validation import INT32_MAX, integer

if TYPE_CHECKING:
    from .sampling_params import SamplingParams

MAX_PROMPT_BYTES = 64 << 20
"""Longest text that is tokenized; the same number in ``rust/text``."""
MAX_CAPTURE_BYTES = 1 << 31
"""Of what one call may capture."""
MAX_STRUCTURE_BYTES = 1_000_000
"""Longest description of structured output; the same number in ``rust/text``."""
MAX_STRUCTURE_MEMORY = 1 << 30
"""Of the automata of all structures of a model that are followed at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model accepts, for those who pass on what strangers ask.

    Each can be lowered; the defaults are as far as any request can go. What is beyond is refused
    with a ``RequestError`` that names the option, before anything is computed; a full queue with an
    ``OverloadedError``. ``docs/limits.md`` also lists what is fixed.

    Attributes:
        n: Sequences of a request.
        stop: Stop strings.
        bad_words: Bad words.
        logprobs: Most likely tokens that are reported, per token of output or prompt.
        choices: Texts to choose from.
        structure_bytes: Bytes of a schema, expression, grammar, or of all choices together.
        prompt_bytes: Bytes of a prompt's text.
        capture_bytes: What ``forward`` hands out for all prompts of a call; while it runs, it takes
            up to three times as much.
        structure_memory: Bytes of the automata of all running sequences' structures. Where they
            would take more, the sequence with the largest ones ends with
            ``finish_reason="error"``; usual ones take 30 to 300 kB.
        waiting_requests: Requests that wait for their first step; ``None``: any number.
        waiting_tokens: Prompt tokens of those; ``None``: any number.
    """

    n: int = MAX_N
    stop: int = MAX_STOPS
    bad_words: int = MAX_BAD_WORDS
    logprobs: int = MAX_LOGPROBS
    choices: int = MAX_CHOICES
    structure_bytes: int = MAX_STRUCTURE_BYTES
    prompt_bytes: int = MAX_PROMPT_BYTES
    capture_bytes: int = MAX_CAPTURE_BYTES
    structure_memory: int = MAX_STRUCTURE_MEMORY
    waiting_requests: int | None = None
    waiting_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            RequestError: A value is no whole number, or beyond what any request can go to.
        """
        for entry in fields(self):
            name, value, default = entry.name, getattr(self, entry.name), entry.default
            if value is not None or isinstance(default, int):
                highest = default if isinstance(default, int) else INT32_MAX
                least = 1 if name == "n" else 0
                object.__setattr__(self, name, integer(name, value, least, highest))

    def check(self, params: SamplingParams) -> None:
        """Refuse options that ask for more.

        Raises:
            RequestError: One does; ``field`` names it.
            GrammarError: The description of structured output is too long.
        """
        counts = {
            "n": params.n,
            "stop": len(params.stop_strings),
            "bad_words": len(tuple(params.bad_words or ())),
            "choices": len(tuple(params.choices or ())),
        }
        for name, count in counts.items():
            _check(name, count, getattr(self, name))
        for name in ("logprobs", "prompt_logprobs"):
            _check(name, getattr(params, name) or 0, self.logprobs)
        for name in STRUCTURES:
            value = getattr(params, name)
            if value is not None:
                schema = params.output_schema
                texts = [schema.json] if name == "schema" and schema is not None else value
                texts = [texts] if isinstance(texts, str) else texts
                num_bytes = sum(_num_bytes(text) for text in texts)
                _check(name, num_bytes, self.structure_bytes, "bytes", GrammarError)

    def check_prompt(self, text: str) -> None:
        """Refuse a prompt that is too long to be tokenized.

        Raises:
            RequestError: It is.
        """
        limit = self.prompt_bytes
        if len(text) > limit or _num_bytes(text) > limit:
            raise RequestError(f"the prompt's text is longer than {limit:,} bytes", field="prompt")

    def check_capture(self, num_bytes: int) -> None:
        """Refuse to hand out more than that.

        Raises:
            RequestError: It is more.
        """
        if num_bytes > self.capture_bytes:
            raise RequestError(
                f"this captures {num_bytes:,} bytes, but this model was loaded with a limit of "
                f"{self.capture_bytes:,}",
                field="capture",
                hint="name fewer points or positions, or give fewer prompts per call",
            )


AS_FAR_AS_ANY = Limits()
"""The defaults."""


def _num_bytes(text: str) -> int:
    """Of UTF-8; lone surrogates are refused elsewhere."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _check(
    name: str,
    count: int,
    limit: int,
    unit: str = "",
    error: type[RequestError] = RequestError,
) -> None:
    if count > limit:
        of = f" {unit}" if unit else ""
        raise error(
            f"{name} asks for {count:,}{of}, but this model was loaded with a limit of {limit:,}",
            field=name,
        )
