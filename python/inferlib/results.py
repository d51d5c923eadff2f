"""Turn what the scheduler and the text streams report into what callers read."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .completion import (
    Completion,
    CompletionOutput,
    Delta,
    FinishReason,
    Logprob,
    TokenLogprobs,
)
from .output_syntax.parser import OutputParser, ParsedOutput, parse_whole
from .output_syntax.reasoning_meter import count_reasoning_tokens
from .usage import Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._core import RequestOutput, RowLogprobs
    from .engine import Engine
    from .request import Request
    from .request_sequences import SequenceView


_NOTHING_DRAWN = "the logits were not numbers, or the options left no token to draw"


def completion_of(request: Request, token_text: Callable[[int], str | None]) -> Completion:
    """Build the result of a request that is done.

    Raises:
        InferlibError: It failed.
    """
    request.raise_error()
    result = request.results[0]
    outputs = [
        _output(request, index, sequence, token_text)
        for index, sequence in enumerate(result.sequences)
    ]
    return Completion(
        prompt=request.prompt,
        prompt_token_ids=request.prompt_token_ids,
        outputs=outputs,
        prompt_logprobs=_prompt_logprobs(request, result, token_text),
        timings=_timings(request, result),
        usage=Usage(
            prompt_tokens=len(request.prompt_token_ids),
            cached_tokens=result.num_cached_tokens,
            output_tokens=sum(len(output.token_ids) for output in outputs),
            drafted_tokens=result.num_drafted_tokens,
            accepted_tokens=result.num_accepted_tokens,
            draft_model_drafted_tokens=result.num_model_drafted_tokens,
            draft_model_accepted_tokens=result.num_model_accepted_tokens,
            forced_tokens=result.num_forced_tokens,
            reasoning_tokens=_num_reasoning_tokens(request, outputs, token_text),
        ),
        params=request.params,
        is_processed=bool(request.processors),
        thinking=None if request.thinking is None else request.thinking.to_dict(),
        run=result.run_record(),
        origin=request.origin,
    )


def _output(
    request: Request,
    index: int,
    sequence: SequenceView,
    token_text: Callable[[int], str | None],
) -> CompletionOutput:
    text = request.text(index)
    parsed = ParsedOutput(text) if request.output is None else parse_whole(request.output, text)
    schema = request.params.output_schema
    return CompletionOutput(
        index=index,
        text=parsed.content,
        token_ids=[int(token_id) for token_id in sequence.token_ids],
        logprobs=_output_logprobs(request, sequence, token_text),
        drawn_logprobs=_drawn_logprobs(request, sequence),
        finish_reason=_finish_reason(sequence, has_calls=bool(parsed.tool_calls)),
        stop_reason=_stop_reason(request, index, sequence),
        error=_error(request, index, sequence),
        parsed=None if schema is None else schema.parse(parsed.content),
        reasoning=parsed.reasoning or None,
        tool_calls=parsed.tool_calls,
        malformed_tool_calls=parsed.malformed,
        raw_text=None if request.output is None else text,
    )


def _num_reasoning_tokens(
    request: Request, outputs: list[CompletionOutput], token_text: Callable[[int], str | None]
) -> int:
    """Count them, of outputs in which reasoning may be."""
    reading = request.output if request.thinking is None else request.thinking.reading
    if reading is None or reading.reasoning_syntax == "off":
        return 0
    openings = reading.tables.reasoning_openings
    return sum(
        count_reasoning_tokens(reading, output.token_ids, token_text)
        for output in outputs
        if reading.starts_in is not None
        or reading.written
        or output.raw_text is None
        or any(marker in output.raw_text for marker in openings)
    )


class DeltaReader:
    """Cuts what a request has produced into deltas, as a stream reads it."""

    def __init__(
        self, engine: Engine, request: Request, token_text: Callable[[int], str | None]
    ) -> None:
        self._engine = engine
        self._request = request
        self._token_text = token_text
        self._num_given_tokens = [0] * request.params.n
        self._num_seen_tokens = [0] * request.params.n
        self._num_read_characters = [0] * request.params.n
        self._open = list(range(request.params.n))
        output = request.output
        self._parsers = [] if output is None else [OutputParser(output) for _ in self._open]

    @property
    def is_exhausted(self) -> bool:
        """Whether every sequence's last delta was given."""
        return not self._open

    def num_seen_tokens(self) -> int:
        """Count the tokens that were read, given or still held back."""
        return sum(self._num_seen_tokens)

    def has_news(self) -> bool:
        """Whether ``next_delta`` may give something that it did not give before."""
        request = self._request
        return request.is_done or (self._engine.num_output_tokens(request) > self.num_seen_tokens())

    def next_delta(self) -> Delta | None:
        """Return the next delta of the sequence that waits longest; ``None`` if there is none yet.

        Raises:
            InferlibError: The request failed.
        """
        for index in list(self._open):
            delta = self._read(index)
            if delta is None:
                continue
            self._open.remove(index)
            if delta.finish_reason is None:
                self._open.append(index)
            return delta
        return None

    def _read(self, index: int) -> Delta | None:
        request = self._request
        start = self._num_given_tokens[index]
        ended = request.is_done or index in request.ended
        sequence, text = self._engine.read(request, index, start)
        self._num_seen_tokens[index] = start + len(sequence.token_ids)
        text = text[self._num_read_characters[index] :]
        self._num_read_characters[index] += len(text)
        parsed = self._parse(index, text, ended=ended)
        visible = bool(parsed) or (not request.params.detokenize and len(sequence.token_ids) > 0)
        if not (ended or visible):
            return None
        self._num_given_tokens[index] = self._num_seen_tokens[index]
        has_calls = bool(self._parsers) and self._parsers[index].num_calls > 0
        return Delta(
            index=index,
            text=parsed.content,
            token_ids=[int(token_id) for token_id in sequence.token_ids],
            logprobs=_output_logprobs(request, sequence, self._token_text),
            finish_reason=_finish_reason(sequence, has_calls=has_calls) if ended else None,
            stop_reason=_stop_reason(request, index, sequence) if ended else None,
            error=_error(request, index, sequence) if ended else None,
            reasoning=parsed.reasoning,
            tool_calls=parsed.tool_calls,
            malformed_tool_calls=parsed.malformed,
        )

    def _parse(self, index: int, text: str, *, ended: bool) -> ParsedOutput:
        if not self._parsers:
            return ParsedOutput(text)
        parser = self._parsers[index]
        parsed = parser.feed(text)
        return parsed + parser.finish() if ended else parsed


def _finish_reason(sequence: SequenceView, *, has_calls: bool) -> FinishReason:
    if has_calls and sequence.finish_reason == "stop":
        return "tool_calls"
    return cast("FinishReason", sequence.finish_reason)


def _stop_reason(request: Request, index: int, sequence: SequenceView) -> str | int | None:
    return request.stop_strings.get(index, sequence.stop_token_id)


def _error(request: Request, index: int, sequence: SequenceView) -> str | None:
    """Say what went wrong with a sequence that ended so."""
    if sequence.finish_reason != "error":
        return None
    return request.failures.get(index, _NOTHING_DRAWN)


def _output_logprobs(
    request: Request, sequence: SequenceView, token_text: Callable[[int], str | None]
) -> list[TokenLogprobs] | None:
    if request.params.logprobs is None:
        return None
    rows = zip(sequence.token_ids, sequence.logprobs, strict=True)
    return [_token_logprobs(int(token_id), row, token_text) for token_id, row in rows]


def _drawn_logprobs(request: Request, sequence: SequenceView) -> list[float] | None:
    """Those of the tokens themselves, where nobody asked for more but they were needed."""
    if request.params.logprobs is not None or request.params.abstain_below is None:
        return None
    return [row.logprob for row in sequence.logprobs]


def _prompt_logprobs(
    request: Request, result: RequestOutput, token_text: Callable[[int], str | None]
) -> list[TokenLogprobs | None] | None:
    """One entry per prompt token; ``None`` where nothing was scored."""
    if result.prompt_logprobs is None:
        return None
    start = result.prompt_logprobs_start
    entries: list[TokenLogprobs | None] = [None] * len(request.prompt_token_ids)
    for position, row in enumerate(result.prompt_logprobs, start):
        entries[position] = _token_logprobs(request.prompt_token_ids[position], row, token_text)
    return entries


def _token_logprobs(
    token_id: int, row: RowLogprobs, token_text: Callable[[int], str | None]
) -> TokenLogprobs:
    logprobs = {token_id: Logprob(row.logprob, row.rank, token_text(token_id))}
    pairs: Sequence[tuple[int, float]] = list(zip(row.top_ids, row.top_logprobs, strict=True))
    for rank, (top_id, logprob) in enumerate(pairs, 1):
        logprobs.setdefault(int(top_id), Logprob(float(logprob), rank, token_text(int(top_id))))
    return logprobs


def _timings(request: Request, result: RequestOutput) -> Timings:
    times = result.timestamps
    ended = times.arrival if times.finished is None else times.finished

    def since_arrival(moment: float | None) -> float | None:
        return None if moment is None else moment - times.arrival

    num_tokens = sum(len(sequence.token_ids) for sequence in result.sequences)
    longest = max(len(sequence.token_ids) for sequence in result.sequences)
    queued = since_arrival(times.first_scheduled)
    first = since_arrival(times.first_token)
    decoding = None
    if times.first_token is not None and times.last_token is not None:
        decoding = times.last_token - times.first_token
    return Timings(
        queued=ended - times.arrival if queued is None else queued,
        prefill=None if first is None or queued is None else first - queued,
        first_token=first,
        first_visible_token=since_arrival(request.first_visible),
        total=ended - times.arrival,
        inter_token_latency=decoding / (longest - 1) if decoding and longest > 1 else None,
        tokens_per_second=(num_tokens - 1) / decoding if decoding and num_tokens > 1 else None,
        num_preemptions=result.num_preemptions,
    )
