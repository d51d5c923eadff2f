"""Requests with ``logits_processors``: their rows are drawn here, from what the callables return.

The executor hands out the logits of these rows and draws nothing from them. The callables run on
the thread that runs the step, without the engine's lock. An exception in one ends its request
alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._core import LogitsSampler
from .errors import LogitsProcessorError
from .logits_processing import are_sound, process

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ._core import Batch, Scheduler, StepOutput
    from .request import Request


class ProcessedRow(NamedTuple):
    """A row of logits that is processed."""

    row: int
    request: Request
    sequence_index: int


class RequestProcessors:
    """Draws the rows of requests that have processors.

    Args:
        vocab_size: Number of logits.
        scheduler: Has the tokens.
        give_up: Lets a request end before the next step.
    """

    def __init__(
        self, vocab_size: int, scheduler: Scheduler, give_up: Callable[[Request], object]
    ) -> None:
        self._vocab_size = vocab_size
        self._scheduler = scheduler
        self._give_up = give_up
        self._requests: dict[int, Request] = {}
        self._tokens: dict[int, NDArray[np.int32]] = {}
        self._samplers: list[LogitsSampler] = []

    def __len__(self) -> int:
        """Count the requests that it knows, and the sequences whose tokens it keeps."""
        return len(self._requests) + len(self._tokens)

    def open(self, request: Request) -> None:
        """Begin a request that was just submitted; the lock is held, as in the next two."""
        if request.processors:
            self._requests[request.id] = request

    def close(self, request: Request) -> None:
        """Forget a request."""
        if request.processors and request.ids:
            self._requests.pop(request.id, None)
            for key in request.text_keys:
                self._tokens.pop(key, None)

    def ask(self, batch: Batch) -> list[ProcessedRow]:
        """Ask for the logits of a step's rows that are to be processed; return these rows."""
        if not self._requests:
            return []
        wanted = batch.want_logits(list(self._requests))
        return [ProcessedRow(row, self._requests[number], index) for row, number, index in wanted]

    def draw(self, batch: Batch, output: StepOutput, rows: list[ProcessedRow]) -> StepOutput:
        """Return a step's result with tokens for these rows.

        A row whose processors fail stays without one, and its request gets the error; one whose
        logits are no numbers stays so, too, as it would without processors.
        """
        handed_out = dict(zip(output.logits_rows.tolist(), output.logits, strict=True))
        drawn, logits = [], []
        for row, request, index in rows:
            if request.error is not None or not are_sound(handed_out[row]):
                continue
            try:
                tokens = self._tokens_of(request, index)
                logits.append(process(request.processors, tokens, handed_out[row]))
                drawn.append(row)
            except LogitsProcessorError as error:
                request.error = error
                self._give_up(request)
        if not self._samplers:
            self._samplers.append(LogitsSampler(self._vocab_size))
        values = np.stack(logits) if logits else np.empty((0, self._vocab_size), np.float32)
        return self._samplers[0].redraw(batch, output, np.array(drawn, np.int32), values)

    def _tokens_of(self, request: Request, index: int) -> NDArray[np.int32]:
        """Prompt and output of a sequence, ``[num_tokens]``, read-only."""
        key = request.text_keys[index]
        tokens = self._tokens.get(key)
        if tokens is None:
            tokens = np.array(request.prompt_token_ids, np.int32)
        num_output_tokens = len(tokens) - len(request.prompt_token_ids)
        new = self._scheduler.sequence_since(request.id, index, num_output_tokens)
        tokens = np.concatenate([tokens, new.token_ids])
        tokens.flags.writeable = False
        self._tokens[key] = tokens
        return tokens
