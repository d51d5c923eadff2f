"""Where the weights of a program come from: tensors of a checkpoint, checked before any is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .architectures import (
    AddOne,
    HeadRows,
    RopeFirst,
    RowsFrom,
    Transposed,
    TransposedHeads,
    UnpermuteQk,
)
from .errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from .architectures import Part, Recast, WeightMap

_LISTED_PROBLEMS = 10


class Tensors(Protocol):
    """What tensors are read from: an opened checkpoint, or arrays that somebody has."""

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor's values."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatrixSource:
    """A matrix of the program, as tensors of the checkpoint that are stacked by rows.

    Attributes:
        name: Canonical name.
        shape: ``(out_features, in_features)``, of experts with their number before.
        parts: Tensor name and, where rows have to move, the order: row ``r`` of the part is row
            ``order[r]`` of the tensor.
        recast: How the only part is stored, if not row after row: such a matrix is given to the
            executor as ``values``, not as tensors.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, NDArray[np.int32] | None], ...]
    recast: Recast | None = None

    def values(self, weights: Tensors) -> NDArray[np.float32]:
        """The whole matrix, dequantized: ``shape``."""
        parts = []
        for tensor, row_order in self.parts:
            array = weights.array(tensor)
            if self.recast is not None:
                array = self.recast.matrix(array)
            parts.append(array if row_order is None else array[row_order])
        return np.concatenate(parts).reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorSource:
    """A vector of the program (norm or bias), ready to use.

    Attributes:
        name: Canonical name.
        values: float32, transforms applied.
    """

    name: str
    values: NDArray[np.float32]


def matrix_sources(
    declared: Mapping[str, tuple[int, ...]], weight_map: WeightMap
) -> tuple[MatrixSource, ...]:
    """The matrices among the declared weights, in their order."""
    return tuple(
        MatrixSource(
            name=name,
            shape=shape,
            parts=tuple((part.tensor, _row_order(part)) for part in weight_map[name]),
            recast=_recast(weight_map[name]),
        )
        for name, shape in declared.items()
        if len(shape) > 1
    )


def vector_sources(
    declared: Mapping[str, tuple[int, ...]], weight_map: WeightMap, weights: Tensors
) -> tuple[VectorSource, ...]:
    """The vectors among the declared weights, in their order."""
    return tuple(
        VectorSource(
            name=name,
            values=np.concatenate([_vector(part, weights) for part in weight_map[name]]),
        )
        for name, shape in declared.items()
        if len(shape) == 1
    )


def check_tensors(
    declared: Mapping[str, tuple[int, ...]],
    weight_map: WeightMap,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    unused: Collection[str],
    source: str,
) -> None:
    """Compare what a program needs with what a checkpoint has.

    Args:
        declared: Canonical name → shape, from the program.
        weight_map: Canonical name → parts.
        shapes: Tensor name → shape, from the checkpoint.
        unused: Tensors of the checkpoint that nobody has to use.
        source: The checkpoint, for the message.

    Raises:
        ModelFormatError: Tensors are missing, left over or of the wrong shape: all in one message.
    """
    problems = list(_problems(declared, weight_map, shapes, unused))
    if not problems:
        return
    listed = "; ".join(problems[:_LISTED_PROBLEMS])
    more = len(problems) - _LISTED_PROBLEMS
    rest = f"; and {more} more" if more > 0 else ""
    raise ModelFormatError(f"the tensors of {source} do not fit its configuration: {listed}{rest}")


def _problems(
    declared: Mapping[str, tuple[int, ...]],
    weight_map: WeightMap,
    shapes: Mapping[str, tuple[int, ...]],
    unused: Collection[str],
) -> Iterator[str]:
    used: set[str] = set()
    for name, shape in declared.items():
        for part in weight_map[name]:
            used.add(part.tensor)
            columns = shape[-1:] if len(shape) > 1 else ()
            expected = part.shape or (part.rows, *columns)
            found = shapes.get(part.tensor)
            if found is None:
                yield f"{part.tensor} is missing"
            elif found != expected:
                yield f"{part.tensor} has shape {_text(found)}, not {_text(expected)}"
    for tensor in shapes:
        if tensor not in used and tensor not in unused:
            yield f"{tensor} is not used by this architecture"


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _row_order(part: Part) -> NDArray[np.int32] | None:
    match part.transform:
        case None | Transposed() | TransposedHeads():
            return None
        case UnpermuteQk() | HeadRows() | RopeFirst() | RowsFrom():
            return part.transform.row_order()
        case AddOne():
            # Only norms have it, and they are vectors.
            raise AssertionError(part)


def _recast(parts: tuple[Part, ...]) -> Recast | None:
    """How a matrix of one part is stored, if transposed; no family stacks such parts."""
    transform = parts[0].transform
    return transform if isinstance(transform, Transposed | TransposedHeads) else None


def _vector(part: Part, weights: Tensors) -> NDArray[np.float32]:
    values = weights.array(part.tensor)
    match part.transform:
        case None:
            return values.reshape(-1)
        case UnpermuteQk() | HeadRows() | RopeFirst() | RowsFrom():
            return values[part.transform.row_order()]
        case Transposed():
            return part.transform.vector(values)
        case AddOne():
            return values + np.float32(1)
        case TransposedHeads():
            # Only matrices have it.
            raise AssertionError(part)
