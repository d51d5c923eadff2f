"""What a program may ask of the CUDA executor: looked at before any memory is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from .._core import Program

_WITHOUT_KERNEL = {
    "position_embedding": "learned positions",
    "layer_norm": "layer norms",
    "activation": "an MLP without a gate",
    "scale": "multipliers of branches or logits",
    "moe": "a mixture of experts",
    "segment_embedding": "segments of two texts",
    "pool": "scores of whole sequences",
}
_ACTIVATIONS = ("silu", "gelu_tanh", "gelu")


def refuse_unsupported(program: Program) -> None:
    """Raise if the program holds an op that has no CUDA kernel.

    Raises:
        UnsupportedModelError: The message says which.
    """
    if program.is_bidirectional or not program.has_lm_head:
        raise UnsupportedModelError(
            "the model is an encoder or has no logits, for which there are no CUDA kernels yet",
            hint='device="cpu" runs it',
        )
    for kind, op in program.ops:
        missing = _WITHOUT_KERNEL.get(kind)
        if kind == "attention" and op["sinks"] is not None:
            missing = "attention sinks"
        if kind == "act_and_mul" and op["activation"] not in _ACTIVATIONS:
            missing = f"the activation {op['activation']}"
        if missing is not None:
            raise UnsupportedModelError(
                f"the model has {missing}, for which there is no CUDA kernel yet",
                hint='device="cpu" runs it',
            )
