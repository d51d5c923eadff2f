"""From a quantized folder to a checkpoint of types that the executors know, its numbers exactly."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import format_bytes
from ..errors import ModelFormatError, UnsupportedModelError
from . import compressed_tensors, fp8, gptq_awq
from .checkpoint_plan import CheckpointPlan, TensorPlan, stored_tensor
from .schemes import Schemes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core import Weights
    from ..architectures import Fields
    from .matrices import FloatMatrix, IntegerMatrix

_logger = logging.getLogger(__package__)

# Scales of keys and values, and of what attention multiplies.
_OF_ATTENTION = tuple(
    f".{name}_{kind}"
    for name in ("k", "v", "q", "prob", "k_proj.output", "v_proj.output")
    for kind in ("scale", "zero_point")
)
_TYPES_OF_CODES = ("I8", *fp8.FLOATS_OF_8_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """How the matrices of a folder are found and read.

    Attributes:
        markers: Endings, one of which each quantized matrix has.
        companions: Endings of all tensors that go away with it.
        read: Reads the matrix of a prefix.
        stores_weights: Whether codes may lie in ``.weight``, which means nothing without a scale.
        inputs: How inputs are to be quantized, which is left out; empty if they are not.
    """

    markers: tuple[str, ...]
    companions: tuple[str, ...]
    read: Callable[[Weights, str], IntegerMatrix | FloatMatrix]
    stores_weights: bool = False
    inputs: str = ""


def unpack_checkpoint(weights: Weights, quantization: Fields) -> CheckpointPlan:
    """The same checkpoint with a ``.weight`` in the place of each quantized matrix's tensors.

    Args:
        weights: Of a folder.
        quantization: ``quantization_config`` of its ``config.json``.

    Raises:
        UnsupportedModelError: Another method, format, strategy or number of bits; the message
            names the field.
        ModelFormatError: Fields or tensors that do not exist or do not fit each other.
    """
    name = quantization.text("quant_method", default="unknown")
    make = _METHODS.get(name)
    if make is None:
        raise UnsupportedModelError(
            f"{quantization.source} says that the weights are quantized by {name!r}; "
            f"known are {', '.join(map(repr, _METHODS))}",
            hint="use the unquantized checkpoint or a GGUF file of it",
        )
    method = make(quantization)
    names = weights.names
    prefixes = dict.fromkeys(
        name.removesuffix(marker)
        for name in names
        for marker in method.markers
        if name.endswith(marker)
    )
    matrices = [method.read(weights, prefix).plan() for prefix in prefixes]
    gone = {prefix + ending for prefix in prefixes for ending in (".weight", *method.companions)}
    others = []
    for name in names:
        if name in gone or name.endswith(_OF_ATTENTION):
            continue
        is_code = name.endswith(".weight") and weights.info(name)[0] in _TYPES_OF_CODES
        if is_code and method.stores_weights:
            scale = name.removesuffix(".weight") + method.markers[-1]
            raise ModelFormatError(f"{scale} is missing: the weight is quantized")
        others.append(stored_tensor(weights, name))
    source = Path(weights.files[0])
    _log(source.parent.name, matrices, method.inputs)
    return CheckpointPlan(source, [*matrices, *others])


def _of_gptq(quantization: Fields) -> _Method:
    return _Method(
        markers=(".qweight",),
        companions=gptq_awq.COMPANIONS,
        read=gptq_awq.reader_of_gptq(quantization),
    )


def _of_awq(quantization: Fields) -> _Method:
    return _Method(
        markers=(".qweight",),
        companions=gptq_awq.COMPANIONS,
        read=gptq_awq.reader_of_awq(quantization),
    )


def _of_fp8(quantization: Fields) -> _Method:
    block = fp8.block_size(quantization)
    return _Method(
        markers=(".weight_scale_inv", ".weight_scale"),
        companions=fp8.COMPANIONS,
        read=lambda weights, prefix: fp8.read_fp8(weights, prefix, block),
        stores_weights=True,
        inputs=f"{quantization.text('activation_scheme', default='dynamic')} float8",
    )


def _of_compressed_tensors(quantization: Fields) -> _Method:
    schemes = Schemes(quantization)
    return _Method(
        markers=(".weight_packed", ".weight_scale"),
        companions=compressed_tensors.COMPANIONS,
        read=lambda weights, prefix: compressed_tensors.read_matrix(
            weights, prefix, schemes.of(prefix)
        ),
        stores_weights=True,
        inputs=", ".join(dict.fromkeys(schemes.inputs)),
    )


_METHODS: dict[str, Callable[[Fields], _Method]] = {
    "gptq": _of_gptq,
    "awq": _of_awq,
    "compressed-tensors": _of_compressed_tensors,
    "fp8": _of_fp8,
}


def _log(name: str, matrices: list[TensorPlan], inputs: str) -> None:
    types = Counter(matrix.dtype for matrix in matrices)
    _logger.info(
        "%s: %d quantized matrices, their numbers exactly, as %s: %s",
        name,
        len(matrices),
        " and ".join(f"{count} {dtype}" for dtype, count in types.items()) or "nothing",
        format_bytes(sum(matrix.num_bytes for matrix in matrices)),
    )
    if inputs:
        _logger.info(
            "%s is made for products whose inputs are quantized, too (%s); here inputs are as "
            "precision= says",
            name,
            inputs,
        )
    floats = [matrix for matrix in matrices if matrix.dtype in ("F32", "BF16")]
    if floats:
        _logger.info(
            '%s: %d matrices fit no type of few bits and take %s; quantize="q8_0" makes them '
            "smaller, but changes them",
            name,
            len(floats),
            format_bytes(sum(matrix.num_bytes for matrix in floats)),
        )
