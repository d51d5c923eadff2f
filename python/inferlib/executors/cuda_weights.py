"""Packs matrices for the CUDA kernels: the layout of ``cuda/weights.cuh``, in NumPy.

Codes are the file's, moved and never requantized; scales become float32, which holds the file's
products of scales exactly or with one rounding of 24 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PANEL_ROWS = 16
FEW_ROWS = 8
"""Of activations that a kernel which streams the weights once may have."""
PAIR_COLUMNS = 32
GATED_ACTIVATIONS = frozenset({"silu", "gelu_tanh"})
"""Those that ``gated_*`` is compiled for."""
FUSED_LAYOUTS = frozenset({"float", "int8", "int4", "e4m3"})
"""Those that ``gated_*`` and ``lm_head_argmax`` are compiled for."""
GROUPED_GATED = frozenset(
    {
        *((layout, "silu") for layout in FUSED_LAYOUTS),
        ("float", "clamped_swiglu"),
    }
)
"""Layouts and activations that ``moe_gated`` is compiled for."""
Layout: TypeAlias = Literal["float", "int8", "int4", "e4m3", "e5m2"]

# Fragment of mma.m16n8k16's left operand: lane and element → row and column of a 16 x 16 tile.
_LANE, _ELEMENT = np.arange(32)[:, None], np.arange(8)
_ROW = _LANE // 4 + _ELEMENT // 2 % 2 * 8
_COLUMN = _LANE % 4 * 2 + _ELEMENT % 2 + _ELEMENT // 4 * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedMatrix:
    """A matrix of small integers: ``value = scale * code (+ minimum)`` per row and group.

    Attributes:
        codes: ``[n, k]``, int8; 0 to 15 where there are minimums.
        scales: ``[n, k / group]``, float32.
        minimums: The same shape, or ``None``.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    minimums: NDArray[np.float32] | None = None

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    def values(self) -> NDArray[np.float32]:
        """Dequantized, ``[n, k]``."""
        scales = np.repeat(self.scales, self.group, axis=1)
        values: NDArray[np.float32] = self.codes.astype(np.float32) * scales
        if self.minimums is None:
            return values
        values += np.repeat(self.minimums, self.group, axis=1)
        return values

    def rows(self, order: NDArray[np.integer]) -> QuantizedMatrix:
        """The same rows in another order."""
        minimums = None if self.minimums is None else self.minimums[order]
        return QuantizedMatrix(
            codes=self.codes[order], scales=self.scales[order], minimums=minimums
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMatrix:
    """A matrix as kernels read it.

    Attributes:
        layout: Which kernels.
        shape: ``(n, k)``.
        codes: uint32, ``[panels, k / 32, …]``.
        scales: float32, or ``None`` for ``"float"``.
        group: Columns that share a scale; 0 for ``"float"``.
    """

    layout: Layout
    shape: tuple[int, int]
    codes: NDArray[np.uint32]
    scales: NDArray[np.float32] | None
    group: int


def pack_float(values: NDArray[Any]) -> PackedMatrix:
    """Pack ``[n, k]`` of 16-bit floats (bf16 as uint16); k is a multiple of 32."""
    fragments = _fragments(values.view(np.uint16))
    codes = np.ascontiguousarray(fragments).view(np.uint32)
    return PackedMatrix(layout="float", shape=_shape(values), codes=codes, scales=None, group=0)


def pack_quantized(matrix: QuantizedMatrix) -> PackedMatrix:
    """Pack integers: with minimums as int4, without as int8; k is a multiple of 32."""
    pairs = _side_by_side(matrix.codes)
    scales = _panels(matrix.scales)
    layout: Layout = "int8"
    if matrix.minimums is not None:
        layout = "int4"
        nibbles = pairs.astype(np.uint8)
        pairs = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
        scales = np.stack([scales, _panels(matrix.minimums)], axis=-1)
    return PackedMatrix(
        layout=layout,
        shape=_shape(matrix.codes),
        codes=np.ascontiguousarray(pairs).view(np.uint32),
        scales=np.ascontiguousarray(scales),
        group=matrix.group,
    )


def pack_stacked(values: NDArray[Any] | QuantizedMatrix, count: int) -> PackedMatrix:
    """Pack matrices of one shape, one behind the other, each from a panel of its own on.

    Args:
        values: ``[count * n, k]``: 16-bit floats (bf16 as uint16), whose columns are filled up to
            a multiple of 32 with zeros, or integers.
        count: How many.

    Returns:
        Codes and scales of all; the shape is that of each.
    """
    if isinstance(values, QuantizedMatrix):
        minimums = values.minimums
        packed = pack_quantized(
            QuantizedMatrix(
                codes=own_panels(values.codes, count),
                scales=own_panels(values.scales, count),
                minimums=None if minimums is None else own_panels(minimums, count),
            )
        )
        rows, k = values.codes.shape
    else:
        rows, k = values.shape
        wide = np.pad(values, ((0, 0), (0, -k % PAIR_COLUMNS)))
        packed = pack_float(own_panels(wide, count))
    return replace(packed, shape=(rows // count, k))


def own_panels(array: NDArray[Any], count: int) -> NDArray[Any]:
    """``[count * n, k]`` with each matrix's rows filled up to a multiple of 16."""
    of_each = array.reshape(count, -1, array.shape[1])
    filled = np.pad(of_each, ((0, 0), (0, -of_each.shape[1] % PANEL_ROWS), (0, 0)))
    return filled.reshape(-1, array.shape[1])


def pack_bytes(
    layout: Literal["e4m3", "e5m2"], codes: NDArray[np.uint8], scales: NDArray[np.float32]
) -> PackedMatrix:
    """Pack ``[n, k]`` of 8-bit floats with ``[n, k / group]`` scales; group is a multiple of 32."""
    return PackedMatrix(
        layout=layout,
        shape=_shape(codes),
        codes=np.ascontiguousarray(_side_by_side(codes)).view(np.uint32),
        scales=np.ascontiguousarray(_panels(scales)),
        group=int(codes.shape[1] // scales.shape[1]),
    )


def _side_by_side(array: NDArray[Any]) -> NDArray[Any]:
    """``[panels, k / 32, 32 lanes, 2 fragments, 8 elements]``."""
    fragments = _fragments(array)
    panels, steps = fragments.shape[:2]
    return fragments.reshape(panels, steps // 2, 2, 32, 8).transpose(0, 1, 3, 2, 4)


def _shape(array: NDArray[Any]) -> tuple[int, int]:
    return int(array.shape[0]), int(array.shape[1])


def _filled(array: NDArray[Any]) -> NDArray[Any]:
    """With rows of zeros up to a multiple of 16."""
    return np.pad(array, ((0, -len(array) % PANEL_ROWS), (0, 0)))


def _panels(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[panels, groups, 16]``."""
    filled = _filled(scales)
    return filled.reshape(-1, PANEL_ROWS, scales.shape[1]).transpose(0, 2, 1)


def _fragments(array: NDArray[Any]) -> NDArray[Any]:
    """``[panels, k / 16, 32 lanes, 8 elements]``."""
    k = array.shape[1]
    if k % PAIR_COLUMNS:
        raise ValueError(f"{k} columns are not a multiple of {PAIR_COLUMNS}")
    tiles = _filled(array).reshape(-1, PANEL_ROWS, k // 16, 16).transpose(0, 2, 1, 3)
    fragments: NDArray[Any] = tiles[:, :, _ROW, _COLUMN]
    return fragments
