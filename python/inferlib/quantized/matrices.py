"""Matrices of codes and scales as types that hold exactly the numbers they mean.

Integers stay a few bits where GGUF's blocks of 32 columns with a float16 scale can hold them. What
they cannot hold becomes floats, exactly: ``BF16`` where every scale is a power of two, else
``F32``. (The product of an integer of 9 bits or an 8-bit float with a scale of bf16 or float16 is a
float32; with a scale of 24 bits it is the nearest one.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError
from .blocks import BLOCK, block_bytes
from .checkpoint_plan import TensorPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .._core import Weights

# The differences of code and zero that a type holds, smallest type first; minus the least of them
# is what its codes are offset by, except for Q8_0, whose codes are signed.
_RANGES = {"Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q8_0": (-128, 127)}
_ROWS = 16
# Beyond, products with 8-bit numbers might leave the normal numbers of bf16.
_LARGEST_EXPONENT = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerMatrix:
    """A matrix ``value = (code - zero) * scale``; columns of a group share zero and scale.

    Attributes:
        name: Of the tensor.
        shape: ``(n, k)``.
        bounds: Least and largest code that there may be.
        codes: Gives them: ``[n, k]``, uint8 or int8.
        zeros: ``[n, groups]``, or ``[1, 1]`` for all.
        scales: ``[n, groups]``, or ``[1, 1]`` for all.
        groups: Of each column, ``[k]``; ``None``: runs of columns of equal length.
    """

    name: str
    shape: tuple[int, int]
    bounds: tuple[int, int]
    codes: Callable[[], NDArray[np.uint8] | NDArray[np.int8]]
    zeros: NDArray[np.int16]
    scales: NDArray[np.float32]
    groups: NDArray[np.integer] | None = None

    def plan(self) -> TensorPlan:
        """The smallest type that holds it.

        Raises:
            ModelFormatError: Scales are no numbers, or there are columns without a group.
        """
        if 0 in self.shape or 0 in self.scales.shape:
            raise ModelFormatError(f"{self.name} {list(self.shape)} is empty")
        check_finite(f"the scales of {self.name}", self.scales)
        num_groups = self.scales.shape[1]
        if self.groups is None and self.shape[1] % num_groups:
            raise ModelFormatError(
                f"{self.name}: {num_groups} groups of {self.shape[1]} columns are of unequal length"
            )
        dtype = self._type()
        read = self._blocks(dtype) if dtype in _RANGES else self._floats(dtype)
        return TensorPlan(name=self.name, dtype=dtype, shape=self.shape, read=read)

    def _type(self) -> str:
        k, num_groups = self.shape[1], self.scales.shape[1]
        with np.errstate(over="ignore"):
            halves = self.scales.astype(np.float16).astype(np.float32)
        whole_blocks = k % BLOCK == 0 and (num_groups == 1 or k // num_groups % BLOCK == 0)
        if whole_blocks and self._has_runs() and np.array_equal(halves, self.scales):
            least = self.bounds[0] - int(self.zeros.max())
            most = self.bounds[1] - int(self.zeros.min())
            for dtype, (low, high) in _RANGES.items():
                if low <= least and most <= high:
                    return dtype
        return float_type(self.scales)

    def _has_runs(self) -> bool:
        if self.groups is None:
            return True
        k, num_groups = self.shape[1], self.scales.shape[1]
        return k % num_groups == 0 and np.array_equal(
            self.groups, np.arange(k) // (k // num_groups)
        )

    def _blocks(self, dtype: str) -> Callable[[], NDArray[np.uint8]]:
        def read() -> NDArray[np.uint8]:
            (n, k), num_groups = self.shape, self.scales.shape[1]
            offset = 0 if dtype == "Q8_0" else -_RANGES[dtype][0]
            # Modulo 256: the result fits a byte, whatever a code and a zero are alone.
            zeros = (self.zeros - np.int16(offset)).astype(np.uint8)
            codes = self.codes().view(np.uint8).reshape(n, num_groups, -1) - zeros[..., None]
            scales = np.broadcast_to(self.scales.astype(np.float16), (n, num_groups))
            wide = np.repeat(scales, k // num_groups // BLOCK, axis=1)
            return block_bytes(dtype, codes.reshape(-1, BLOCK), wide.reshape(-1))

        return read

    def _floats(self, dtype: str) -> Callable[[], NDArray[np.uint8]]:
        def read() -> NDArray[np.uint8]:
            (n, k), num_groups = self.shape, self.scales.shape[1]
            groups = np.arange(k) // (k // num_groups) if self.groups is None else self.groups
            codes = self.codes()
            zeros = np.broadcast_to(self.zeros, (n, num_groups))
            scales = np.broadcast_to(self.scales, (n, num_groups))
            values = np.empty((n, k), np.float32)
            for first in range(0, n, _ROWS):  # what is computed on the way stays in the cache
                rows = slice(first, first + _ROWS)
                centre = np.take(zeros[rows], groups, axis=1)
                difference = np.subtract(codes[rows], centre, dtype=np.int16)
                with np.errstate(over="ignore"):
                    np.multiply(difference, np.take(scales[rows], groups, axis=1), out=values[rows])
            check_finite(self.name, values)
            return float_bytes(dtype, values)

        return read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatMatrix:
    """A matrix ``value = number * scale`` of small floats.

    Attributes:
        name: Of the tensor.
        weights: Where the numbers are, under the same name.
        scales: ``[1, 1]`` for all, ``[n, 1]`` for rows, or of blocks, ``[rows, columns]`` of them.
        block: Rows and columns of a block; ``None`` for one scale of all or of each row.
    """

    name: str
    weights: Weights
    scales: NDArray[np.float32]
    block: tuple[int, int] | None = None

    def plan(self) -> TensorPlan:
        """The smallest float that holds it.

        Raises:
            ModelFormatError: The scales do not fit the matrix or are no numbers.
        """
        _, shape = self.weights.info(self.name)
        if len(shape) != 2:
            raise ModelFormatError(f"{self.name} has {len(shape)} dimensions; matrices have two")
        n, k = shape
        if self.block is None:
            fits = self.scales.shape in ((1, 1), (n, 1))
        else:
            rows, columns = self.block
            fits = self.scales.shape == (-(-n // rows), -(-k // columns))
        if not fits:
            of_blocks = "" if self.block is None else f" for blocks of {list(self.block)}"
            raise ModelFormatError(
                f"{self.name} {list(shape)} has scales {list(self.scales.shape)}{of_blocks}"
            )
        check_finite(f"the scales of {self.name}", self.scales)
        dtype = float_type(self.scales)
        return TensorPlan(
            name=self.name,
            dtype=dtype,
            shape=shape,
            read=lambda: float_bytes(dtype, self._values()),
        )

    def _values(self) -> NDArray[np.float32]:
        values = self.weights.array(self.name)
        rows, columns = self.block or (0, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.block is None:
                values *= self.scales
            else:
                for i, scales in enumerate(self.scales):
                    wide = np.repeat(scales, min(columns, values.shape[1]))[: values.shape[1]]
                    values[i * rows : (i + 1) * rows] *= wide
        check_finite(self.name, values)
        return values


def check_finite(what: str, values: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity.

    Raises:
        ModelFormatError: There are some; the message begins with ``what``.
    """
    if not np.isfinite(values).all():
        raise ModelFormatError(f"{what} has values that are NaN or infinite")


def float_type(scales: NDArray[np.float32]) -> str:
    """``"BF16"`` if it holds all products of the scales with numbers of 8 bits, else ``"F32"``."""
    mantissas, exponents = np.frexp(scales)
    is_power = np.isin(mantissas, (0, 0.5, -0.5)) & (np.abs(exponents) < _LARGEST_EXPONENT)
    return "BF16" if is_power.all() else "F32"


def float_bytes(dtype: str, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The bytes of numbers that are of that type."""
    values = np.ascontiguousarray(values)
    if dtype == "F32":
        return values.view(np.uint8)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
