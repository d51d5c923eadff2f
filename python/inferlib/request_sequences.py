"""The sequences of a request: as the scheduler has them, or as they were when it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from ._core import RowLogprobs, Scheduler, SequenceOutput
    from .request import Request

    SequenceView: TypeAlias = "SequenceOutput | SequenceTail"


@dataclass(frozen=True, slots=True)
class SequenceTail:
    """A part of a sequence."""

    token_ids: NDArray[np.int32]
    logprobs: list[RowLogprobs]
    finish_reason: str | None
    stop_token_id: int | None


def sequence_since(scheduler: Scheduler, request: Request, index: int, start: int) -> SequenceView:
    """Return one of a request's sequences from token ``start`` on."""
    if not request.results:
        return scheduler.sequence_since(request.id, index, start)
    sequence = request.results[0].sequences[index]
    return SequenceTail(
        sequence.token_ids[start:],
        sequence.logprobs[start:],
        sequence.finish_reason,
        sequence.stop_token_id,
    )


def num_output_tokens(scheduler: Scheduler, request: Request) -> int:
    """Count the generated tokens of all sequences of a request; the lock need not be held."""
    if not request.results:
        try:
            return scheduler.num_output_tokens(request.id)
        except KeyError:
            pass  # it ended meanwhile
    return sum(
        len(sequence.token_ids) for result in request.results for sequence in result.sequences
    )


def first_tokens(sequence: SequenceView, count: int) -> SequenceTail:
    """A sequence as it is if it ends with so many tokens; the last of its own may be its end."""
    is_whole = count == len(sequence.token_ids)
    return SequenceTail(
        sequence.token_ids[:count],
        sequence.logprobs[:count],
        sequence.finish_reason if is_whole else None,
        sequence.stop_token_id if is_whole else None,
    )
