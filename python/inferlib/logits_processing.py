"""``logits_processors``: callables of the caller that change a row's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import LogitsProcessorError, RequestError
from .validation import items, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELD = "logits_processors"
MAX_PROCESSORS = 64

LogitsProcessor: TypeAlias = Callable[
    [NDArray[np.int32], NDArray[np.float32]], "NDArray[np.floating] | None"
]
"""Is called with ``token_ids`` ``[num_tokens]``, prompt and output so far, which it only reads, and
``logits`` ``[vocab_size]``, which are its own. Returns other logits, or ``None`` for these, as it
has changed them. ``-inf`` forbids a token."""


def checked_processors(value: object) -> tuple[LogitsProcessor, ...]:
    """Return the callables of a request; ``None`` is none.

    Raises:
        RequestError: It is no list of callables.
    """
    if value is None:
        return ()
    if callable(value):
        raise RequestError(
            f"{FIELD} must be a list of callables, not {shown(value)}",
            field=FIELD,
            hint="a single one is a list of one",
        )
    processors = items(FIELD, value, MAX_PROCESSORS)
    for entry in processors:
        if not callable(entry):
            raise RequestError(f"{FIELD} must hold callables, not {shown(entry)}", field=FIELD)
    return processors


def process(
    processors: Sequence[LogitsProcessor],
    token_ids: NDArray[np.int32],
    logits: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return what the processors, one after another, make of a row.

    Args:
        processors: Of the request.
        token_ids: ``[num_tokens]``, read-only.
        logits: ``[vocab_size]``; stay as they are.

    Raises:
        LogitsProcessorError: A processor raised, or gave something else than logits.
    """
    values = logits
    for place, processor in enumerate(processors):
        given = values.copy()
        try:
            result = processor(token_ids, given)
        except Exception as error:  # the caller's
            raise LogitsProcessorError(
                f"{FIELD}[{place}] raised {type(error).__name__}: {shown(str(error))}", field=FIELD
            ) from error
        values = _checked(place, given if result is None else result, logits.shape)
    return values


def are_sound(logits: NDArray[np.float32]) -> bool:
    """Whether a token can be drawn from these logits: none is NaN or ``+inf``."""
    return not (np.isnan(logits).any() or np.isposinf(logits).any())


def _checked(place: int, result: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A processor's result as logits."""
    if not isinstance(result, np.ndarray) or not np.issubdtype(result.dtype, np.floating):
        kind = f"an array of {result.dtype}" if isinstance(result, np.ndarray) else shown(result)
        raise LogitsProcessorError(
            f"{FIELD}[{place}] must return an array of floats or None, not {kind}", field=FIELD
        )
    if result.shape != shape:
        raise LogitsProcessorError(
            f"{FIELD}[{place}] returned logits of shape {shown(result.shape)}, not {shape}",
            field=FIELD,
        )
    with np.errstate(over="ignore"):
        values = np.array(result, np.float32)
    if not are_sound(values):
        raise LogitsProcessorError(
            f"{FIELD}[{place}] returned NaN or +inf", field=FIELD, hint="-inf forbids a token"
        )
    return values
