"""Quantize the matrices of a full-precision checkpoint while it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

from ..errors import ModelFormatError
from .blocks import BLOCK
from .checkpoint_plan import CheckpointPlan, TensorPlan
from .encoders import TYPE_OF_ROWS, encode, encode_rows

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

_FLOATS = ("F32", "F16", "BF16")
_ROWS = "INT8"
"""8 bits with one scale per row."""


class QuantizationDetails(TypedDict):
    """What quantizing a checkpoint at load did to it: a plain ``dict``.

    Attributes:
        type: What its float matrices became: ``"Q4_0"``, or ``"INT8"``.
        matrices: How many.
        relative_error: Root mean square of what that changed, over that of the weights.
        worst_matrix: The checkpoint's tensor where that is largest; empty if there is none.
        worst_relative_error: What it is there.
    """

    type: str
    matrices: int
    relative_error: float
    worst_matrix: str
    worst_relative_error: float


@dataclass(slots=True)
class QuantizationQuality:
    """Adds up what quantizing changes, matrix by matrix.

    Attributes:
        dtype: What matrices become.
        sums: Of each, the squares of its numbers, and of their errors.
    """

    dtype: str
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def details(self) -> QuantizationDetails:
        """What is known once the checkpoint is written."""
        squares, errors = (
            sum(column) for column in zip((0.0, 0.0), *self.sums.values(), strict=True)
        )
        shares = {name: _share(*sums) for name, sums in self.sums.items()}
        worst = max(shares, key=shares.__getitem__, default="")
        return QuantizationDetails(
            type=self.dtype,
            matrices=len(shares),
            relative_error=_share(squares, errors),
            worst_matrix=worst,
            worst_relative_error=shares.get(worst, 0.0),
        )


def quality_text(details: QuantizationDetails) -> str:
    """For people: what became what, and what that changed."""
    text = (
        f"{details['matrices']} matrices quantized to {details['type']}, which changes them by "
        f"{100 * details['relative_error']:.2f} % (root mean square)"
    )
    if not details["worst_matrix"]:
        return text
    return f"{text}, most {details['worst_matrix']}: {100 * details['worst_relative_error']:.2f} %"


def quantize_matrices(
    plan: CheckpointPlan, dtype: str, names: Collection[str]
) -> tuple[CheckpointPlan, QuantizationQuality]:
    """The same checkpoint with blocks of 32 in the place of float matrices.

    Args:
        plan: Of a folder.
        dtype: As ``encode`` takes it, or ``"INT8"``: one scale per row.
        names: The tensors to quantize. Those whose columns are no multiple of 32, and those that
            are quantized, stay as they are.

    Returns:
        The plan, and what its writing will have changed.
    """
    quality = QuantizationQuality(dtype)
    tensors = []
    for tensor in plan.tensors.values():
        is_float = tensor.dtype in _FLOATS and len(tensor.shape) == 2
        if tensor.name in names and is_float and tensor.shape[1] % BLOCK == 0:
            tensors.append(_quantized(tensor, dtype, quality))
        else:
            tensors.append(tensor)
    return CheckpointPlan(plan.source, tensors), quality


def _quantized(tensor: TensorPlan, dtype: str, quality: QuantizationQuality) -> TensorPlan:
    def read() -> NDArray[np.uint8]:
        try:
            data, squares, errors = (
                encode_rows(tensor.values()) if dtype == _ROWS else encode(dtype, tensor.values())
            )
        except ModelFormatError as error:
            raise ModelFormatError(f"{tensor.name} has {error}") from None
        quality.sums[tensor.name] = squares, errors
        return data

    return replace(tensor, dtype=TYPE_OF_ROWS if dtype == _ROWS else dtype, read=read)


def _share(squares: float, errors: float) -> float:
    return float((errors / squares) ** 0.5) if squares else 0.0
