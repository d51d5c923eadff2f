"""Folders that GPTQ (4 and 8 bits) and AWQ (4 bits) have quantized.

Both store ``value = (code - zero) * scale`` with a float16 scale per output and group of columns.
Where the groups are runs of columns that is ``Q4_0`` if symmetric with 4 bits, ``Q5_0`` if not,
``Q8_0`` for symmetric 8 bits. With ``desc_act`` every column has a group of its own choice
(``g_idx``), which no type in blocks can hold: such matrices become floats, as do asymmetric ones of
8 bits.

Source: AutoGPTQ's ``qlinear_cuda_old.py`` and GPTQModel's ``gptq_v2``; AutoAWQ's
``packing_utils.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError, UnsupportedModelError
from .matrices import IntegerMatrix
from .stored import has, scales, unpack, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .._core import Weights
    from ..architectures import Fields

    Reader = Callable[[Weights, str], IntegerMatrix]

COMPANIONS = (".qweight", ".qzeros", ".scales", ".g_idx")
"""Endings of the tensors that a matrix consists of."""
_PER_WORD = 8
# Which of eight neighbours the nibbles of an AWQ word hold.
_AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
_HINT = "use the unquantized checkpoint or a GGUF file of it"


def reader_of_gptq(quantization: Fields) -> Reader:
    """Reads the matrix of a prefix.

    Raises:
        UnsupportedModelError: ``bits`` or ``checkpoint_format`` is another one.
    """
    bits = quantization.size("bits", default=4)
    if bits not in (4, 8):
        raise _unsupported(quantization, "bits", bits, "4 and 8 are")
    form = quantization.text("checkpoint_format", default="gptq")
    if form not in ("gptq", "gptq_v2"):
        raise _unsupported(
            quantization, "checkpoint_format", repr(form), "'gptq' and 'gptq_v2' are"
        )
    # The first version stores zeros minus one.
    offset = 1 if form == "gptq" else 0
    act_order = quantization.flag("desc_act", default=False)
    return lambda weights, prefix: _read_gptq(
        weights, prefix, bits, offset=offset, act_order=act_order
    )


def reader_of_awq(quantization: Fields) -> Reader:
    """Reads the matrix of a prefix.

    Raises:
        UnsupportedModelError: ``bits`` or ``version`` is another one.
    """
    bits = quantization.size("bits", default=4)
    if bits != 4:
        raise _unsupported(quantization, "bits", bits, "only 4 is")
    version = quantization.text("version", default="gemm").lower()
    if version != "gemm":
        raise _unsupported(quantization, "version", repr(version), "only 'gemm' is")
    return _read_awq


def _unsupported(
    quantization: Fields, field: str, value: object, known: str
) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{quantization.source}: {field} = {value} is not supported; {known}", hint=_HINT
    )


def _read_gptq(
    weights: Weights, prefix: str, bits: int, *, offset: int, act_order: bool
) -> IntegerMatrix:
    packed = words(weights, f"{prefix}.qweight")  # [k / per word, n]
    shape = (packed.shape[1], packed.shape[0] * (32 // bits))
    zeros = unpack(words(weights, f"{prefix}.qzeros"), bits).astype(np.int16) + np.int16(offset)
    found = _scales(weights, prefix, zeros, shape)
    name, groups = f"{prefix}.g_idx", None
    if act_order or has(weights, name):
        groups = words(weights, name, dimensions=1).view(np.int32)
        if len(groups) != shape[1]:
            raise ModelFormatError(f"{name} has {len(groups)} groups for {shape[1]} columns")
        if groups.size and not 0 <= groups.min() <= groups.max() < found.shape[1]:
            raise ModelFormatError(
                f"{name} names groups beyond the {found.shape[1]} that there are"
            )
    return IntegerMatrix(
        name=f"{prefix}.weight",
        shape=shape,
        bounds=(0, 2**bits - 1),
        codes=lambda: unpack(packed.T, bits),
        zeros=zeros.T,
        scales=found,
        groups=groups,
    )


def _read_awq(weights: Weights, prefix: str) -> IntegerMatrix:
    packed = words(weights, f"{prefix}.qweight")  # [k, n / 8]
    shape = (packed.shape[1] * _PER_WORD, packed.shape[0])
    zeros = _in_order(words(weights, f"{prefix}.qzeros")).astype(np.int16)
    return IntegerMatrix(
        name=f"{prefix}.weight",
        shape=shape,
        bounds=(0, 15),
        codes=lambda: _in_order(packed).T,
        zeros=zeros.T,
        scales=_scales(weights, prefix, zeros, shape),
    )


def _scales(
    weights: Weights, prefix: str, zeros: NDArray[np.int16], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """``[n, groups]``, checked against the zeros, ``[groups, n]``."""
    found = scales(weights, f"{prefix}.scales")
    if found.shape != zeros.shape or found.ndim != 2 or found.shape[1] != shape[0]:
        raise ModelFormatError(
            f"{prefix}: scales {list(found.shape)} and zeros {list(zeros.shape)} for a matrix "
            f"{list(shape)}"
        )
    return found.T


def _in_order(packed: NDArray[np.uint32]) -> NDArray[np.uint8]:
    nibbles = unpack(packed, 4).reshape(*packed.shape, _PER_WORD)
    ordered = np.empty_like(nibbles)
    ordered[..., _AWQ_ORDER] = nibbles
    return ordered.reshape(*packed.shape[:-1], -1)
