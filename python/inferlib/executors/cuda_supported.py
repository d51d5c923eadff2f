"""What a program may ask of the CUDA executor: looked at before any memory is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from .._core import Program

_WITH_KERNELS = frozenset(
    {
        *("embedding", "position_embedding", "rms_norm", "layer_norm", "linear", "rope"),
        *("store_kv", "attention", "act_and_mul", "activation", "scale", "add", "gather_rows"),
        *("lm_head", "capture"),
    }
)


def refuse_unsupported(program: Program) -> None:
    """Raise if the program holds an op that has no CUDA kernel.

    Raises:
        UnsupportedModelError: The message says which.
    """
    for kind, _ in program.ops:
        if kind not in _WITH_KERNELS:
            raise UnsupportedModelError(
                f"the model has the op {kind!r}, for which there is no CUDA kernel yet",
                hint='device="cpu" runs it',
            )
