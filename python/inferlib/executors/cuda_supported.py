"""What a program may ask of the CUDA executor: looked at before any memory is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from .._core import Program

_MOST_EXPERTS, _MOST_CHOSEN = 512, 32
"""Those of ``moe_route``."""
_WITH_KERNELS = frozenset(
    {
        *("embedding", "position_embedding", "rms_norm", "layer_norm", "linear"),
        *("head_linear", "rope", "store_kv", "attention", "act_and_mul", "activation", "scale"),
        *("add", "gather_rows", "lm_head", "moe", "capture"),
    }
)


def refuse_unsupported(program: Program) -> None:
    """Raise if the program holds an op that has no CUDA kernel, or more than a kernel can.

    Raises:
        UnsupportedModelError: The message says which.
    """
    if program.is_bidirectional or not program.has_lm_head:
        raise UnsupportedModelError(
            "the model is an encoder or has no logits, for which there are no CUDA kernels yet",
            hint='device="cpu" runs it',
        )
    for kind, op in program.ops:
        if kind not in _WITH_KERNELS:
            raise UnsupportedModelError(
                f"the model has the op {kind!r}, for which there is no CUDA kernel yet",
                hint='device="cpu" runs it',
            )
        if kind == "moe":
            experts = program.weights[op["gate"]][0]
            if experts > _MOST_EXPERTS or op["top_k"] > _MOST_CHOSEN:
                raise UnsupportedModelError(
                    f"the model gives a token {op['top_k']} of {experts} experts; the CUDA kernels "
                    f"can do {_MOST_CHOSEN} of {_MOST_EXPERTS}",
                    hint='device="cpu" runs it',
                )
