"""Which files of ``cuda/`` a model's executor can launch kernels of: no others are compiled for it.

What follows from the program is known at once; which products there are only when the weights come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cuda_attention import is_latent
from .cuda_sm90 import ATTENTION_HEAD_DIMS
from .cuda_weights import FUSED_LAYOUTS, GATED_ACTIVATIONS

if TYPE_CHECKING:
    from .._core import Program
    from .cuda_matrices import Kind

_OF_OPS = {
    "embedding": ("embedding", "embedding_packed"),
    "position_embedding": ("embedding", "embedding_packed"),
    "layer_norm": ("layer_norm",),
    "rms_norm": ("rms_norm",),
    "head_linear": ("head_linear",),
    "rope": ("rope_store_kv",),
    "store_kv": ("rope_store_kv",),
    "attention": ("attention_decode", "attention_prefill"),
    "act_and_mul": ("act_and_mul",),
    "activation": ("activation",),
    "moe": ("act_and_mul", "moe_combine", "moe_gated", "moe_linear", "moe_route", "moe_sort"),
    "add": ("add",),
    "scale": ("scale",),
    "gather_rows": ("gather_rows",),
}
_EXACT = {
    "attention_prefill": "attention_f32",
    "head_linear": "head_linear_f32",
    "moe_linear": "moe_linear_f32",
}
"""What float32 has in place of others."""
_REDUCED = frozenset({*_EXACT, "embedding_packed", "attention_decode", "moe_gated"})
_LATENT = {
    "attention_prefill": ("attention_latent",),
    "rope_store_kv": ("rope", "store_kv"),
}
"""What latent attention has in place of others."""
_OF_EVERY_MODEL = frozenset({"argmax", "copy_blocks", "sample"})


def files_of_program(program: Program, kind: Kind, architecture: str) -> frozenset[str]:
    """All but those of products; on sm_90 with what is asked whether it may be launched."""
    ops = program.ops
    files = set(_OF_EVERY_MODEL)
    for op, _ in ops:
        files.update(_OF_OPS.get(op, ()))
    groups = [group for group in program.kv_groups if not is_latent(group)]
    if len(groups) < len(program.kv_groups):
        files.update(*_LATENT.values())
        if not groups:
            files -= {*_LATENT, "attention_decode"}
    if any(op == "lm_head" and fields["softcap"] is not None for op, fields in ops):
        files.add("softcap")
    if kind == "f32":
        files |= {exact for reduced, exact in _EXACT.items() if reduced in files} | {"linear_f32"}
        return frozenset(files - _REDUCED)
    if architecture == "sm_90":
        files.add("linear_sm90")
        if any(group.k_head_dim in ATTENTION_HEAD_DIMS for group in groups):
            files.add("attention_prefill_sm90")
    return frozenset(files)


def files_of_layout(program: Program, layout: str) -> frozenset[str]:
    """Those of products with weights of a layout, in reduced precision."""
    if layout == "rows":
        return frozenset({"linear_sm90"})
    files = {"linear_few", "linear_many"}
    if layout in FUSED_LAYOUTS:
        files.add("lm_head_argmax")
        ops = program.ops
        if any(op == "act_and_mul" and each["activation"] in GATED_ACTIVATIONS for op, each in ops):
            files |= {"gated_few", "gated_many"}
    return frozenset(files)
