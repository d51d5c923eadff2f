"""What a request gives back: plain frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .confidence import confidence_of
from .errors import MissingExtraError
from .explanation import explain_completion
from .heat_map import heat_map
from .receipt import Receipt, ReceiptOutput

if TYPE_CHECKING:
    from .origin import Origin
    from .sampling_params import SamplingParams
    from .tool_calls import MalformedToolCall, ToolCall
    from .usage import Timings, Usage

FinishReason = Literal["stop", "length", "abort", "error", "deadline", "abstain", "tool_calls"]
"""Why a sequence ended: an end-of-sequence or stop token or a stop string; ``max_tokens`` or the
context; cancelled; its logits were not numbers; its time was up; its confidence fell below
``abstain_below``; as ``"stop"``, after calls of tools."""


class Logprob(NamedTuple):
    """Log-probability of one token at one position.

    Attributes:
        logprob: Natural logarithm of the probability.
        rank: 1 for the most likely token.
        decoded_token: The token's own text; ``None`` without a tokenizer.
    """

    logprob: float
    rank: int
    decoded_token: str | None


RECORD_COLUMNS = ("output", "position", "token_id", "token", "logprob", "probability", "rank")

TokenLogprobs = Mapping[int, Logprob]
"""By token id: the drawn (or scored) token and the most likely ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One of a request's ``n`` sequences.

    Attributes:
        index: Which one, from 0.
        text: The generated text, without the stop string; of an answer of ``chat`` only what is
            neither reasoning nor a call.
        token_ids: The generated tokens; a stop token is the last of them.
        logprobs: One mapping per token of ``token_ids``, if asked for.
        drawn_logprobs: With ``abstain_below`` and without ``logprobs``: the log-probability of each
            token of ``token_ids``.
        finish_reason: Why it ended.
        stop_reason: The stop string or token that ended it; ``None`` for an end-of-sequence token
            and for other reasons.
        error: With ``finish_reason="error"``, what went wrong.
        parsed: With ``schema``, what the text holds: JSON values, or an instance of the class that
            was given. ``None`` if the text is not whole, or if the class refuses it.
        reasoning: What the model thought before it answered; ``None`` if nothing was marked so.
        tool_calls: Tools that it called.
        malformed_tool_calls: What began as calls; they are in ``text``, too.
        raw_text: The whole text with its markers, if it was taken apart; else ``None``.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    error: str | None = None
    parsed: Any = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    malformed_tool_calls: list[MalformedToolCall] = field(default_factory=list)
    raw_text: str | None = None
    drawn_logprobs: list[float] | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """Log-probability of the whole sequence, if ``logprobs`` or ``abstain_below`` was given."""
        logprobs = self._of_tokens()
        return None if logprobs is None else math.fsum(logprobs)

    @property
    def confidence(self) -> float | None:
        """The geometric mean of its tokens' probabilities.

        ``exp(mean(logprobs))``, from 0 to 1: the inverse of the perplexity, over all of
        ``token_ids`` (the stop token, the reasoning and what a structure forced are among them). It
        says how sure the model was of its words, not how probable it is that they are true; with
        ``logprobs_mode="processed"`` it is of the distribution that was drawn from. ``None`` unless
        ``logprobs`` (0 will do) or ``abstain_below`` were given: log-probabilities cost a pass over
        the vocabulary, so nobody pays for them unasked. ``None`` without tokens, too.

        Source: Jelinek et al. 1977 (perplexity); Malinin and Gales 2021 (length-normalised
        sequence probability as a measure of confidence).
        """
        logprobs = self._of_tokens()
        return confidence_of(logprobs) if logprobs else None

    def _of_tokens(self) -> list[float] | None:
        """Log-probabilities of its tokens, if they are known."""
        if self.logprobs is None:
            return self.drawn_logprobs
        pairs = zip(self.token_ids, self.logprobs, strict=True)
        return [logprobs[token_id].logprob for token_id, logprobs in pairs]

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dictionary per token, as rows of a table.

        Keys: ``output``, ``position``, ``token_id``, and, ``None`` without ``logprobs``, ``token``
        (its own text), ``logprob``, ``probability``, ``rank``.
        """
        records: list[dict[str, Any]] = []
        for position, token_id in enumerate(self.token_ids):
            drawn = None if self.logprobs is None else self.logprobs[position][token_id]
            records.append(
                {
                    "output": self.index,
                    "position": position,
                    "token_id": token_id,
                    "token": None if drawn is None else drawn.decoded_token,
                    "logprob": None if drawn is None else drawn.logprob,
                    "probability": None if drawn is None else math.exp(drawn.logprob),
                    "rank": None if drawn is None else drawn.rank,
                }
            )
        return records

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {
            "index": self.index,
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": _logprobs_to_list(self.logprobs),
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
            "error": self.error,
            "reasoning": self.reasoning,
            "tool_calls": [call.to_dict() for call in self.tool_calls],
            "malformed_tool_calls": [call.to_dict() for call in self.malformed_tool_calls],
            "raw_text": self.raw_text,
            "drawn_logprobs": self.drawn_logprobs,
        }

    def to_message(self) -> dict[str, Any]:
        """Return it as the assistant's message, to go on with the conversation.

        It has ``tool_calls`` and ``reasoning_content`` only if there are any; ``content`` is
        ``""``, never ``None``, since most templates want text.
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        return message

    def to_receipt(self) -> ReceiptOutput:
        """Return what a receipt says of it."""
        return ReceiptOutput(
            token_ids=self.token_ids,
            # A receipt knows tokens, not what they say.
            finish_reason="stop" if self.finish_reason == "tool_calls" else self.finish_reason,
            logprobs=self._of_tokens(),
        )

    def __repr__(self) -> str:
        return (
            f"CompletionOutput({_shorten(self.text)}, {len(self.token_ids)} tokens, "
            f"finish_reason={self.finish_reason!r})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The result of one request.

    Attributes:
        prompt: The prompt's text; ``None`` if token ids were given.
        prompt_token_ids: What the model read.
        outputs: ``n`` sequences; the first one's fields are also here.
        prompt_logprobs: One mapping per prompt token, if asked for; ``None`` at the first and at
            positions before ``prompt_logprobs_start``.
        timings: Where its time went.
        usage: How many tokens it took.
        params: The options that were used, with every default and the seed filled in.
        origin: The weights and numerics that it depends on.
        run: How it was scheduled, in steps: counts by name, for people (``explain`` says the same
            in words). No result depends on them.
        thinking: With ``thinking_budget``, that and how the reasoning is marked, for ``replay``.
        is_processed: Whether ``logits_processors`` had a say: then it has no receipt.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprobs | None] | None
    timings: Timings
    usage: Usage
    params: SamplingParams
    run: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin | None = field(default=None, repr=False, compare=False)
    thinking: Mapping[str, Any] | None = None
    is_processed: bool = False

    @property
    def receipt(self) -> Receipt:
        """What is needed to verify this result later: see ``Model.replay``.

        Its ``to_dict()`` hashes the weights, the first time.

        Raises:
            ValueError: It was not made by a model, or not by a model alone.
        """
        if self.is_processed:
            raise ValueError("logits_processors had a say in this completion: it has no receipt")
        if self.origin is None:
            raise ValueError("this completion was not made by a model, so it has no receipt")
        return Receipt(
            origin=self.origin,
            prompt_token_ids=self.prompt_token_ids,
            params=self.params,
            thinking=self.thinking,
            outputs=[output.to_receipt() for output in self.outputs],
        )

    def best(self, *, length_penalty: float = 1.0) -> CompletionOutput:
        """Return the most likely of the ``n`` sequences; needs ``logprobs`` or ``abstain_below``.

        Args:
            length_penalty: Log-probabilities are divided by the number of tokens to this power:
                0 compares whole sequences, 1 their mean per token.

        Raises:
            ValueError: There are no log-probabilities.
        """

        def score(output: CompletionOutput) -> float:
            total = output.cumulative_logprob
            if total is None:
                raise ValueError("the best sequence is known only with logprobs=0 or more")
            return total / float(max(len(output.token_ids), 1) ** length_penalty)

        return max(self.outputs, key=score)

    def explain(self) -> str:
        """Say in words why it waited, how it was computed and drawn, and why it ended."""
        return explain_completion(self)

    @property
    def text(self) -> str:
        """Text of the first sequence."""
        return self.outputs[0].text

    @property
    def reasoning(self) -> str | None:
        """What the first sequence thought before it answered."""
        return self.outputs[0].reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Tools that the first sequence called."""
        return self.outputs[0].tool_calls

    @property
    def malformed_tool_calls(self) -> list[MalformedToolCall]:
        """What began as calls in the first sequence."""
        return self.outputs[0].malformed_tool_calls

    def to_message(self) -> dict[str, Any]:
        """Return the first sequence as the assistant's message, to go on with the conversation."""
        return self.outputs[0].to_message()

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the first sequence."""
        return self.outputs[0].token_ids

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        """Log-probabilities of the first sequence."""
        return self.outputs[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first sequence ended."""
        return self.outputs[0].finish_reason

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string or token that ended the first sequence."""
        return self.outputs[0].stop_reason

    @property
    def error(self) -> str | None:
        """What went wrong with the first sequence, if it ended so."""
        return self.outputs[0].error

    @property
    def parsed(self) -> Any:  # noqa: ANN401  # whatever the schema says
        """What the text of the first sequence holds, with ``schema``; see ``CompletionOutput``."""
        return self.outputs[0].parsed

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that the prefix cache served."""
        return self.usage.cached_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values (mappings have integer keys in ``logprobs``)."""
        prompt_logprobs = self.prompt_logprobs
        return {
            "prompt": self.prompt,
            "prompt_token_ids": self.prompt_token_ids,
            "outputs": [output.to_dict() for output in self.outputs],
            "prompt_logprobs": _logprobs_to_list(prompt_logprobs),
            "timings": self.timings.to_dict(),
            "usage": self.usage.to_dict(),
            "params": self.params.to_dict(),
            "run": dict(self.run),
            "thinking": None if self.thinking is None else dict(self.thinking),
            "is_processed": self.is_processed,
        }

    @property
    def confidence(self) -> float | None:
        """That of the first sequence: see ``CompletionOutput.confidence``."""
        return self.outputs[0].confidence

    def to_pandas(self) -> Any:  # noqa: ANN401 (pandas is not a dependency)
        """Return a ``pandas.DataFrame`` with a row per output token: see ``to_records``.

        Raises:
            MissingExtraError: pandas is not installed; ``extra`` is ``"pandas"``.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("to_pandas() needs pandas", extra="pandas") from error
        records = [record for output in self.outputs for record in output.to_records()]
        return pd.DataFrame.from_records(records, columns=list(RECORD_COLUMNS))

    def _repr_html_(self) -> str:
        """Notebooks show each token on a colour: the less likely it was, the redder."""
        return heat_map(self.prompt, self.outputs)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        first = self.outputs[0]
        more = f", +{len(self.outputs) - 1} sequences" if len(self.outputs) > 1 else ""
        return (
            f"Completion({_shorten(first.text)}, {len(first.token_ids)} tokens, "
            f"finish_reason={first.finish_reason!r}{more})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a stream gives at a time: some more of one sequence.

    Attributes:
        index: Which of the ``n`` sequences.
        text: Content that has become certain; never half a character. Empty if there are reasoning
            or calls instead, in a sequence's last delta, or without detokenization.
        token_ids: The tokens since the sequence's last delta.
        logprobs: One mapping per token of ``token_ids``, if asked for.
        finish_reason: In the sequence's last delta, why it ended; else ``None``.
        stop_reason: As in ``CompletionOutput``.
        error: As in ``CompletionOutput``.
        reasoning: Text of the reasoning that has become certain.
        tool_calls: Calls that are complete now.
        malformed_tool_calls: As in ``CompletionOutput``.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    error: str | None = None
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    malformed_tool_calls: list[MalformedToolCall] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {
            "index": self.index,
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": _logprobs_to_list(self.logprobs),
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
            "error": self.error,
            "reasoning": self.reasoning,
            "tool_calls": [call.to_dict() for call in self.tool_calls],
            "malformed_tool_calls": [call.to_dict() for call in self.malformed_tool_calls],
        }

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        end = f", finish_reason={self.finish_reason!r}" if self.finish_reason else ""
        reasoning = f", reasoning={self.reasoning!r}" if self.reasoning else ""
        calls = f", tool_calls={self.tool_calls!r}" if self.tool_calls else ""
        return f"Delta({self.text!r}{reasoning}{calls}{end})"


def _logprobs_to_list(
    logprobs: list[TokenLogprobs] | list[TokenLogprobs | None] | None,
) -> list[dict[int, dict[str, Any]] | None] | None:
    if logprobs is None:
        return None
    return [
        None
        if entry is None
        else {token_id: logprob._asdict() for token_id, logprob in entry.items()}
        for entry in logprobs
    ]


def _shorten(text: str, limit: int = 60) -> str:
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}…"
