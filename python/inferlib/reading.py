"""Texts that are read whole, without generating: the ground of ``embed``, ``classify``, ``rerank``.

Each text is a request that computes its prompt and hands out rows of a capture point. They run
beside all others; of a long list only as many are under way as fill some steps, so that memory is
bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import (
    ClosedError,
    ExecutorError,
    InferlibError,
    PromptTooLongError,
    RequestError,
)
from .model_core import ModelCore
from .progress import progress_of
from .prompts import encode_prompt
from .sequence import COMPUTE_ONLY
from .validation import boolean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence

    from numpy.typing import NDArray

    from .request import Request
    from .sampling_params import SamplingParams

    Floats = NDArray[np.float32]
    Steps = Generator[tuple[Request, int], None, None]
    Take = Callable[[int, Request], None]
    """Takes a text's index and its request, which has ended."""

STEPS_AHEAD = 8
"""Texts of so many full steps are under way at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadText:
    """One text, or two that are read together, as token ids.

    Attributes:
        token_ids: Not empty.
        second_segment: Where the second one begins, if the model tells them apart.
        start: The first token whose rows are wanted.
        params: What is computed beside them; the same object for all that are alike.
    """

    token_ids: list[int]
    second_segment: int | None = None
    start: int = 0
    params: SamplingParams = COMPUTE_ONLY


class Reading(ModelCore):
    """Reads texts."""

    def _read_text(
        self, text: object, second: str | None = None, *, field: str, truncate: bool
    ) -> ReadText:
        """Encode one text, or two; ``truncate`` cuts the last one to what the model reads."""
        boolean("truncate", truncate)
        limit = min(self.max_model_len, self._parts.builder.kv_cache_tokens)
        segment: int | None = None
        if isinstance(text, str) and self.tokenizer is not None:
            try:
                ids, segment, _ = self.tokenizer.encode_segments(
                    text, second, max_tokens=limit if truncate else None
                )
            except RequestError as error:
                error.field = field
                raise
            if len(ids) > limit:  # before it takes more memory
                raise _too_long(len(ids), limit, field)
            token_ids = ids.tolist()
            if not token_ids:
                raise RequestError("a text is empty", field=field)
        else:
            try:
                token_ids = encode_prompt(text, self.tokenizer).token_ids
            except RequestError as error:
                error.field = field
                raise
            if truncate:
                token_ids = token_ids[:limit]
        if len(token_ids) > limit:
            raise _too_long(len(token_ids), limit, field)
        if self._parts.checkpoint.spec.segments in (None, 1):
            segment = None
        return ReadText(token_ids=token_ids, second_segment=segment)

    def _read(
        self,
        texts: Sequence[ReadText],
        points: Collection[str],
        take: Take,
        *,
        progress: bool | None,
        what: str,
        options: dict[str, Any],
    ) -> None:
        """Run all texts; ``take`` gets each one's request."""
        bar = progress_of(len(texts), progress=progress, what=what)
        steps = self._reading_steps(texts, points, take, options)
        if bar is None:
            for request, _ in steps:
                self._engine.wait([request])
            return
        with bar:
            for request, num_done in steps:
                self._engine.wait([request])
                bar.show(num_done)
            bar.show(len(texts))

    async def _aread(
        self,
        texts: Sequence[ReadText],
        points: Collection[str],
        take: Take,
        options: dict[str, Any],
    ) -> None:
        steps = self._reading_steps(texts, points, take, options)
        try:
            for request, _ in steps:
                await self._engine.wait_async([request])
        finally:
            steps.close()

    def _reading_steps(
        self,
        texts: Sequence[ReadText],
        points: Collection[str],
        take: Take,
        options: dict[str, Any],
    ) -> Steps:
        """Yield the request that has to end next, and how many have; then submit further ones."""
        most = STEPS_AHEAD * self._parts.config.max_num_batched_tokens
        pending: deque[tuple[int, Request]] = deque()
        made: list[Request] = []  # those of them that were not submitted yet
        num_tokens = 0
        try:
            for index, text in enumerate(texts):
                count = len(text.token_ids)
                while pending and num_tokens + count > most:
                    self._submit_all(made)
                    yield pending[0][1], pending[0][0]
                    num_tokens -= self._take_ended(pending, take)
                request = self._parts.builder.build_reading(
                    text.token_ids,
                    text.params,
                    points=points,
                    start=text.start,
                    second_segment=text.second_segment,
                    **options,
                )
                pending.append((index, request))
                made.append(request)
                num_tokens += count
            self._submit_all(made)
            while pending:
                yield pending[0][1], pending[0][0]
                self._take_ended(pending, take)
        finally:
            self._engine.cancel([request for _, request in pending])

    def _submit_all(self, made: list[Request]) -> None:
        self._engine.submit(made)
        made.clear()

    def _take_ended(self, pending: deque[tuple[int, Request]], take: Take) -> int:
        """Take the results in front, of which the first has ended; their number of tokens."""
        num_tokens = 0
        while pending and pending[0][1].is_done:
            index, request = pending.popleft()
            request.raise_error()
            reason = request.results[0].sequences[0].finish_reason
            if reason != "length":
                raise _unfinished(reason, is_closed=self.is_closed)
            take(index, request)
            num_tokens += len(request.prompt_token_ids)
        return num_tokens


def captured_rows(index: int, request: Request) -> list[Floats]:
    """What a text's points gave, each ``[rows * width]``."""
    captured = request.results[0].captures
    if not all(np.isfinite(rows).all() for rows in captured):
        raise not_numbers(index)
    return captured


def not_numbers(index: int) -> ExecutorError:
    """Say that what was computed of a text is no use."""
    return ExecutorError(
        f"the hidden states of text {index} are not numbers",
        hint="the weights may be damaged, or their type too narrow for this model",
    )


def _unfinished(reason: str | None, *, is_closed: bool) -> InferlibError:
    if is_closed:
        return ClosedError("the model was closed while this request ran")
    return ExecutorError(f"a text was not read to its end: {reason}")


def _too_long(num_tokens: int, limit: int, field: str) -> PromptTooLongError:
    return PromptTooLongError(
        f"a text has {num_tokens:,} tokens but the model reads {limit:,}",
        field=field,
        hint="shorten it, or give truncate=True to read its beginning",
    )
