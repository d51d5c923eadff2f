"""Folders that GPTQ and AWQ have quantized to 4 bits, as checkpoints of GGUF's types.

Both store ``value = (code - zero) * scale`` with a float16 scale per output and group of columns. A
difference of a code and a zero lies in -16 to 15, so ``Q5_0`` holds it exactly, and ``Q4_0`` where
every zero is 8, which is what symmetric quantization writes. So nothing is rounded, and all kernels
of these types serve. The repacked tensors are in memory until the executor has taken them over.

Source: AutoGPTQ's ``qlinear_cuda_old.py`` and GPTQModel's ``gptq_v2``; AutoAWQ's
``packing_utils.py``; ggml's ``ggml-common.h`` and ``docs/gguf.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._core import Weights
from .errors import ModelFormatError, UnsupportedModelError
from .gguf_bytes import TYPE_NUMBERS, gguf_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .architectures import Fields

    _Matrix = tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.float16]]

_PER_WORD = 8
_BLOCK = 32
_MIDDLE = 8
"""The zero of symmetric quantization."""
# Which of eight neighbours the nibbles of an AWQ word hold.
_AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
_HINT = "use the unquantized checkpoint or a GGUF file of it"


def unpack_integers(weights: Weights, quantization: Fields) -> Weights:
    """The same checkpoint with a ``.weight`` in the place of each ``.qweight`` and its companions.

    Args:
        weights: Of a folder.
        quantization: ``quantization_config`` of its ``config.json``.

    Raises:
        UnsupportedModelError: Another method, another number of bits, or columns in the order of
            their activations; the message names the field.
        ModelFormatError: Tensors that do not fit each other.
    """
    read = _reader(quantization)
    tensors = []
    companions = (".qweight", ".qzeros", ".scales", ".g_idx")
    for name in weights.names:
        prefix, dot, kind = name.rpartition(".")
        if dot + kind == ".qweight":
            tensors.append((f"{prefix}.weight", *_repacked(prefix, *read(weights, prefix))))
        elif dot + kind not in companions or f"{prefix}.qweight" not in weights.names:
            dtype, shape = weights.info(name)
            if dtype not in TYPE_NUMBERS:
                raise UnsupportedModelError(f"{name} is of type {dtype}", hint=_HINT)
            tensors.append((name, dtype, shape, weights.raw(name)))
    # Not the name of a file: whoever remembers what a file holds must not take this for it.
    path = Path(weights.files[0]).with_suffix(".repacked.gguf")
    return Weights.from_bytes(path, gguf_bytes(tensors))


def _reader(quantization: Fields) -> Callable[[Weights, str], _Matrix]:
    method = quantization.text("quant_method", default="unknown")
    if method not in ("gptq", "awq"):
        raise UnsupportedModelError(
            f"{quantization.source} says that the weights are quantized by {method!r}; "
            "known are 'gptq' and 'awq'",
            hint=_HINT,
        )
    bits = quantization.size("bits", default=4)
    if bits != 4:
        raise _unsupported(quantization, "bits", bits, "only 4 is")
    if method == "awq":
        version = quantization.text("version", default="gemm").lower()
        if version != "gemm":
            raise _unsupported(quantization, "version", repr(version), "only 'gemm' is")
        return _read_awq
    if quantization.flag("desc_act", default=False):
        raise _unsupported(
            quantization, "desc_act", "true", "groups must be runs of columns: desc_act=false"
        )
    form = quantization.text("checkpoint_format", default="gptq")
    if form not in ("gptq", "gptq_v2"):
        raise _unsupported(
            quantization, "checkpoint_format", repr(form), "'gptq' and 'gptq_v2' are"
        )
    # The first version stores zeros minus one.
    return lambda weights, prefix: _read_gptq(weights, prefix, 1 if form == "gptq" else 0)


def _unsupported(
    quantization: Fields, field: str, value: object, known: str
) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{quantization.source}: {field} = {value} is not supported; {known}", hint=_HINT
    )


def _read_gptq(weights: Weights, prefix: str, offset: int) -> _Matrix:
    codes = _nibbles(_words(weights, f"{prefix}.qweight").T)
    zeros = _nibbles(_words(weights, f"{prefix}.qzeros")) + offset
    scales = _scales(weights, prefix)
    name = f"{prefix}.g_idx"
    if name in weights.names:
        columns = np.arange(codes.shape[1])
        found = _words(weights, name).view(np.int32)
        if len(found) != len(columns) or len(scales) < 1:
            raise ModelFormatError(f"{name} has {len(found)} groups for {len(columns)} columns")
        if not np.array_equal(found, columns // -(-len(columns) // len(scales))):
            raise UnsupportedModelError(
                f"{name}: the groups are not runs of columns (desc_act)", hint=_HINT
            )
    return codes, zeros, scales


def _read_awq(weights: Weights, prefix: str) -> _Matrix:
    codes = _in_order(_words(weights, f"{prefix}.qweight")).T
    return codes, _in_order(_words(weights, f"{prefix}.qzeros")), _scales(weights, prefix)


def _words(weights: Weights, name: str) -> NDArray[np.uint32]:
    """A tensor of 32-bit integers."""
    if name not in weights.names:
        raise ModelFormatError(f"{name} is missing")
    dtype, shape = weights.info(name)
    if dtype != "I32":
        raise ModelFormatError(f"{name} is of type {dtype}, not I32")
    return weights.raw(name).view(np.uint32).reshape(shape)


def _scales(weights: Weights, prefix: str) -> NDArray[np.float16]:
    name = f"{prefix}.scales"
    if name not in weights.names:
        raise ModelFormatError(f"{name} is missing")
    values = weights.array(name)
    with np.errstate(over="ignore"):
        scales = values.astype(np.float16)
    if not np.array_equal(scales.astype(np.float32), values):
        raise UnsupportedModelError(f"{name} has numbers that float16 does not hold", hint=_HINT)
    return scales


def _nibbles(words: NDArray[np.uint32]) -> NDArray[np.int8]:
    """``[…, words]`` → ``[…, 8 * words]``, the lowest bits first."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    nibbles = (np.ascontiguousarray(words)[..., None] >> shifts & 15).astype(np.int8)
    return nibbles.reshape(*words.shape[:-1], -1)


def _in_order(words: NDArray[np.uint32]) -> NDArray[np.int8]:
    nibbles = _nibbles(words).reshape(*words.shape, _PER_WORD)
    ordered = np.empty_like(nibbles)
    ordered[..., _AWQ_ORDER] = nibbles
    return ordered.reshape(*words.shape[:-1], -1)


def _repacked(
    prefix: str, codes: NDArray[np.int8], zeros: NDArray[np.int8], scales: NDArray[np.float16]
) -> tuple[str, tuple[int, ...], NDArray[np.uint8]]:
    """Type, shape and blocks of a matrix.

    Args:
        prefix: Of its tensors.
        codes: ``[n, k]``.
        zeros: ``[groups, n]``.
        scales: ``[groups, n]``.
    """
    n, k = codes.shape
    groups = len(scales)
    if zeros.shape != scales.shape or scales.shape != (groups, n) or not groups:
        raise ModelFormatError(
            f"{prefix}: scales {scales.shape} and zeros {zeros.shape} for a matrix [{n}, {k}]"
        )
    if k % groups or k // groups % _BLOCK:
        raise UnsupportedModelError(
            f"{prefix}: {groups} groups of {k} columns; group_size must be a multiple of {_BLOCK}",
            hint=_HINT,
        )
    times = k // groups // _BLOCK
    is_symmetric = bool((zeros == _MIDDLE).all())
    if not is_symmetric:
        codes = codes - np.repeat(zeros, k // groups, axis=0).T + np.int8(16)
    blocks = codes.astype(np.uint8).reshape(n, k // _BLOCK, _BLOCK)
    half = _BLOCK // 2
    low = blocks & 15
    nibbles = low[..., :half] | low[..., half:] << 4
    wide = np.repeat(scales.T, times, axis=1)
    parts: list[NDArray[np.uint8]] = [
        np.ascontiguousarray(wide).view(np.uint8).reshape(n, k // _BLOCK, 2)
    ]
    if not is_symmetric:
        parts.append(np.packbits(blocks >> 4, axis=-1, bitorder="little"))
    parts.append(nibbles.astype(np.uint8))
    found = np.concatenate(parts, axis=-1).reshape(-1)
    return "Q4_0" if is_symmetric else "Q5_0", (n, k), found
