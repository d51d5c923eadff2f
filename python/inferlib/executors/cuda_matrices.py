"""The weights of a program on a device, each in the form in which its kernels read it.

A matrix that is multiplied is a list of segments, runs of rows of one layout: in a fused projection
the parts may have different types. A matrix that tokens are looked up in lies row by row, or packed
like one that is multiplied: if it is one, or if it is quantized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..errors import ModelFormatError, UnsupportedModelError
from .cuda_files import files_of_layout
from .cuda_parts import is_float, pack, rows_of, runs, shape_of, to_bfloat16
from .cuda_weights import FUSED_LAYOUTS, PAIR_COLUMNS
from .fp8_weights import Fp8Matrix, refuse_no_numbers
from .gguf_blocks import READABLE, read_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .._core import Program, Weights
    from ..devices import Device, DeviceArray
    from .cuda_parts import Part
    from .fp8_weights import Fp8


Kind: TypeAlias = Literal["f32", "bf16", "f16"]
_LOADED_COLUMNS = 8
"""Of 16 bits, that a load of a box takes at least."""
_FP8: dict[str, Fp8] = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2"}
_STORED_FLOATS = {"BF16": np.uint16, "F16": np.float16}
_LOOKED_UP = {"embedding", "position_embedding"}
_MULTIPLIED = {"linear", "lm_head"}
_OF_EXPERTS = ("gate", "up", "down")
_OF_HEADS = "head_linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some rows of a matrix on the device.

    Attributes:
        layout: ``"rows"`` (floats row by row, for the float32 family and ``linear_sm90``), or of a
            ``PackedMatrix``.
        first_row: Where its rows begin in the matrix.
        shape: ``(n, k)``.
        codes: Elements, or packed codes.
        scales: ``None`` for floats.
        group: Columns that share a scale; 0 for floats.
    """

    layout: str
    first_row: int
    shape: tuple[int, int]
    codes: DeviceArray
    scales: DeviceArray | None
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedMatrices:
    """One matrix of each expert, or of each head, on the device, one behind the other.

    Attributes:
        layout: As of a ``Segment``; the same for all.
        count: How many.
        shape: ``(n, k)`` of each.
        codes: Elements, or packed codes.
        scales: ``None`` for floats.
        group: Columns that share a scale; 0 for floats.
        codes_step: Elements of ``codes`` from one matrix to the next.
        scales_step: Of ``scales``.
    """

    layout: str
    count: int
    shape: tuple[int, int]
    codes: DeviceArray
    scales: DeviceArray | None
    group: int
    codes_step: int
    scales_step: int


class DeviceWeights:
    """Receives the weights of a program and puts them on a device.

    Args:
        device: Where to.
        program: Says what is needed, and for what.
        kind: Of the activations: ``"f32"`` keeps every value exactly, the others pack.
        has_rows: Whether matrices of 16-bit floats lie row by row, for ``linear_sm90``.
    """

    def __init__(
        self, device: Device, program: Program, kind: Kind, *, has_rows: bool = False
    ) -> None:
        self._device = device
        self._kind = kind
        self.has_rows: bool = has_rows or kind == "f32"
        self._program = program
        self._layouts: set[str] = set()
        self._shapes = program.weights
        ops = program.ops
        self._looked_up = {op["weight"] for kind, op in ops if kind in _LOOKED_UP}
        self._multiplied = {op["weight"] for kind, op in ops if kind in _MULTIPLIED}
        self.vectors: dict[str, DeviceArray] = {}
        self.tables: dict[str, DeviceArray] = {}  # for tokens that are not looked up in `matrices`
        self.matrices: dict[str, tuple[Segment, ...]] = {}
        self._of_experts = {op[part] for kind, op in ops if kind == "moe" for part in _OF_EXPERTS}
        of_heads = {op["weight"] for kind, op in ops if kind == _OF_HEADS}
        self._stacked = self._of_experts | of_heads
        self.stacked: dict[str, StackedMatrices] = {}  # of experts and of heads
        self.num_bytes: int = 0

    def missing(self) -> list[str]:
        """Names that were not given yet."""
        return sorted(self._shapes.keys() - self.vectors.keys() - self._given_matrices())

    def _given_matrices(self) -> set[str]:
        return self.tables.keys() | self.matrices.keys() | self.stacked.keys()

    def load_vector(self, name: str, values: NDArray[np.float32]) -> None:
        """Give a vector, ``[width]``."""
        self._check_shape(name, values.shape)
        self.vectors[name] = self._upload(values.astype(np.float32), name)

    def load_array(self, name: str, values: NDArray[np.float32]) -> None:
        """Give a matrix, ``[out_features, in_features]``, or those of experts or heads by rows."""
        self._add(name, [np.asarray(values, np.float32)])

    def load_matrices(
        self,
        checkpoint: Weights,
        matrices: list[tuple[str, list[tuple[str, NDArray[np.int32] | None]]]],
        *,
        packed_cache: Path | None = None,  # noqa: ARG002  # as the CPU's executor is called
        row_scales: bool = False,  # noqa: ARG002  # activations are not quantized here
    ) -> tuple[str, str | None]:
        """Give all matrices as tensors of a checkpoint that are stacked by rows."""
        checkpoint.check_unchanged()
        for name, parts in matrices:
            types = {checkpoint.info(tensor)[0] for tensor, _ in parts}
            arrays = []
            for tensor, order in parts:
                part = self._read(checkpoint, tensor, is_mixed=len(types) > 1)
                if order is not None:
                    part = rows_of(part, order)
                arrays.append(part)
            self._add(name, arrays)
            for tensor, _ in parts:
                checkpoint.release(tensor)
        return "packed", None

    def _read(self, checkpoint: Weights, tensor: str, *, is_mixed: bool) -> Part:
        """A tensor as it is stored if there are kernels for that, else as float32, exactly."""
        dtype, shape = checkpoint.info(tensor)
        # GGUF has experts and heads in a third dimension.
        rows, columns = math.prod(shape[:-1]), shape[-1]
        if dtype in _STORED_FLOATS and not (is_mixed and self._kind == "f32"):
            return checkpoint.raw(tensor).view(_STORED_FLOATS[dtype]).reshape(rows, columns)
        if dtype in _FP8 and self._kind != "f32":
            codes = checkpoint.raw(tensor).reshape(rows, columns)
            refuse_no_numbers(tensor, _FP8[dtype], codes)
            return Fp8Matrix(dtype=_FP8[dtype], codes=codes)
        if dtype in READABLE and self._kind != "f32":
            return read_blocks(dtype, checkpoint.raw(tensor), (rows, columns))
        return checkpoint.array(tensor).reshape(rows, columns)

    def _add(self, name: str, parts: list[Part]) -> None:
        rows = sum(shape_of(part)[0] for part in parts)
        self._check_shape(name, (rows, shape_of(parts[0])[1]))
        if name in self._stacked:
            self.stacked[name] = self._stack(name, parts)
            return
        is_packed = self._is_looked_up_packed(name, parts)
        if name in self._looked_up and not is_packed:
            table = np.concatenate([self._floats(part) for part in parts])
            self.tables[name] = self._upload(table, name)
        if name in self._multiplied or is_packed:
            self.matrices[name] = tuple(self._segments(name, parts))
        if name in self._multiplied and self._kind != "f32":
            self.prepare_products({segment.layout for segment in self.matrices[name]})

    def prepare_products(self, layouts: set[str]) -> None:
        """Products with weights of these layouts will be wanted."""
        for layout in layouts - self._layouts:
            self._device.prepare(files_of_layout(self._program, layout))
        self._layouts |= layouts

    def _is_looked_up_packed(self, name: str, parts: list[Part]) -> bool:
        """Whether tokens are looked up in a packed matrix, which is there once and as stored."""
        if self._kind == "f32" or name not in self._looked_up or len(list(runs(parts))) > 1:
            return False
        if not is_float(parts[0]):
            return _is_fused(parts[0])
        return name in self._multiplied and not self.has_rows

    def _segments(self, name: str, parts: list[Part]) -> Iterator[Segment]:
        first_row = 0
        for run in [parts] if self._kind == "f32" else runs(parts):
            if self.has_rows and (self._kind == "f32" or is_float(run[0])):
                segment = self._rows(name, run, first_row, is_whole=len(run) == len(parts))
            else:
                segment = self._packed(name, run, first_row)
            yield segment
            first_row += segment.shape[0]

    def _rows(self, name: str, run: Sequence[Part], first_row: int, *, is_whole: bool) -> Segment:
        """Floats as they are; one array does for products and for looking tokens up."""
        table = self.tables.get(name) if is_whole else None
        if self._kind != "f32":
            self._check_columns(name, run, _LOADED_COLUMNS)
        if table is None:
            table = self._upload(np.concatenate([self._floats(part) for part in run]), name)
        return Segment(
            layout="rows",
            first_row=first_row,
            shape=(int(table.shape[0]), int(table.shape[1])),
            codes=table,
            scales=None,
            group=0,
        )

    def _packed(self, name: str, run: Sequence[Part], first_row: int) -> Segment:
        self._check_columns(name, run, PAIR_COLUMNS)
        packed = pack([self._floats(part) if is_float(part) else part for part in run])
        return Segment(
            layout=packed.layout,
            first_row=first_row,
            shape=packed.shape,
            codes=self._upload(packed.codes, name),
            scales=None if packed.scales is None else self._upload(packed.scales, name),
            group=packed.group,
        )

    def _stack(self, name: str, parts: list[Part]) -> StackedMatrices:
        """All in one layout: as they are stored if they are alike, else as floats."""
        count, n, k = self._shapes[name]
        layout, scales, group = "rows", None, 0
        if self._kind == "f32":
            codes = np.concatenate([self._floats(part) for part in parts])
        else:
            # Heads have no kernels for 8-bit floats.
            is_fp8 = isinstance(parts[0], Fp8Matrix) and name not in self._of_experts
            is_alike = len(list(runs(parts))) == 1 and not is_float(parts[0])
            if not is_alike or is_fp8 or not _is_fused(parts[0]):
                self._check_columns(name, parts, _LOADED_COLUMNS)
                parts = [self._floats(part) for part in parts]
            packed = pack(parts, count)
            layout, codes, group = packed.layout, packed.codes, packed.group
            if packed.scales is not None:
                scales = self._upload(packed.scales, name)
        return StackedMatrices(
            layout=layout,
            count=count,
            shape=(n, k),
            codes=self._upload(codes, name),
            scales=scales,
            group=group,
            codes_step=codes.size // count,
            scales_step=0 if scales is None else int(np.prod(scales.shape)) // count,
        )

    def _check_columns(self, name: str, run: Sequence[Part], multiple: int) -> None:
        if shape_of(run[0])[1] % multiple:
            raise UnsupportedModelError(
                f"{name} has {shape_of(run[0])[1]} columns; the CUDA kernels of reduced precision "
                f"want a multiple of {multiple}",
                hint='give precision="exact"',
            )

    def _floats(self, part: Part) -> NDArray[Any]:
        """Values as the kernels of this kind read floats."""
        if not isinstance(part, np.ndarray):
            part = part.values()
        if self._kind == "f32" or part.dtype == (np.uint16 if self._kind == "bf16" else np.float16):
            return part
        if part.dtype == np.uint16:
            part = (part.astype(np.uint32) << 16).view(np.float32)
        if self._kind == "f16":
            return part.astype(np.float16)
        return to_bfloat16(part.astype(np.float32))

    def _upload(self, values: NDArray[Any], name: str) -> DeviceArray:
        array = self._device.alloc(values.shape, values.dtype, name)
        self._device.upload(array, np.ascontiguousarray(values))
        self.num_bytes += values.nbytes
        return array

    def _check_shape(self, name: str, found: tuple[int, ...]) -> None:
        shape = self._shapes.get(name)
        if shape is None or _flat(shape) != found:
            raise ModelFormatError(f"{name} has shape {found}, the program wants {shape}")


def _is_fused(part: Part) -> bool:
    """Whether what is looked up, or belongs to experts, may be stored like that."""
    return not isinstance(part, Fp8Matrix) or part.dtype in FUSED_LAYOUTS


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a weight as it is given: the matrices of experts and of heads are stacked by rows."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else shape
