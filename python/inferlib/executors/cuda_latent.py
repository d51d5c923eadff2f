"""What latent attention launches: a matrix per head, and attention to keys wider than values.

Queries are multiplied into the space of the latents by one product by head and the results out of
it by another; between them one KV head serves all query heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UnsupportedModelError
from .cuda_model import ceil_divide, kind_of

if TYPE_CHECKING:
    from ..devices import DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_model import DeviceModel, Launch

i32: type[np.int32] = np.int32
f32: type[np.float32] = np.float32
_MOST_OF_K, _MOST_OF_V = 576, 512
"""Elements of a key and of a value: those of ``attention_latent``."""
_HEADS = 4
"""Query heads of a thread block of it."""
_EXACT_ALIGNMENT, _ALIGNMENT = 4, 8
"""Elements that ``head_linear_f32`` and ``head_linear`` load at once."""


def head_product(model: DeviceModel, op: dict[str, Any]) -> Launch:
    """``out[head] = weight[head] @ x[head]`` behind the elements that are passed through.

    Raises:
        UnsupportedModelError: The kernels do not know these sizes.
    """
    matrices, passed = model.weights.stacked[op["weight"]], op["pass_through"]
    device, heads, (n, k) = model.device, matrices.count, matrices.shape
    multiple = _EXACT_ALIGNMENT if model.kind == "f32" else _ALIGNMENT
    if k % multiple or passed % multiple:
        raise UnsupportedModelError(
            f"{op['weight']} multiplies {k} elements of a head behind {passed}; the CUDA kernels "
            f"of this precision want multiples of {multiple}",
            hint='device="cpu" runs it',
        )
    arrays = (model.buffers[op["out"]], model.buffers[op["x"]], matrices.codes)
    if model.kind == "f32":
        kernel = f"head_linear_f32_{kind_of(matrices.codes)}"
        columns, tile_rows = ceil_divide(passed + n, 4), 8
        weights: tuple[DeviceArray | None, ...] = ()
        steps: tuple[np.int32, ...] = ()
    else:
        layout = model.kind if matrices.layout == "float" else matrices.layout
        kernel = f"head_linear_{model.kind}_{layout}"
        columns, tile_rows = ceil_divide(n, 128), 64
        weights = (matrices.scales,)
        steps = (i32(matrices.group), i32(matrices.codes_step), i32(matrices.scales_step))
    sizes = (i32(n), i32(k), i32(passed), *steps)

    def launch(_: StepInputs, rows: int) -> None:
        grid = (columns, ceil_divide(rows, tile_rows), heads)
        device.launch(kernel, grid, 128, (*arrays, *weights, i32(rows), *sizes))

    return launch


def latent_attention(model: DeviceModel, op: dict[str, Any], sinks: DeviceArray | None) -> Launch:
    """Causal attention where keys and values have different widths, in any precision.

    Raises:
        UnsupportedModelError: The kernel does not know these widths.
    """
    number, num_heads = op["kv_group"], op["num_heads"]
    group = model.program.kv_groups[number]
    num_kv_heads, k_dim, v_dim = group.num_kv_heads, group.k_head_dim, group.v_head_dim
    if k_dim > _MOST_OF_K or v_dim > _MOST_OF_V or k_dim % 4 or v_dim % 4:
        raise UnsupportedModelError(
            f"heads of {k_dim} (K) and {v_dim} (V) elements; the CUDA kernels know multiples of 4 "
            f"up to {_MOST_OF_K} and {_MOST_OF_V}",
            hint='device="cpu" runs it',
        )
    device, kernel = model.device, f"attention_latent_{model.kind}"
    arrays = (
        *(model.buffers[op["out"]], model.from_element(op["q"], op["q_start"])),
        *model.kv[number, op["kv_layer"]],
    )
    sizes = (
        *(sinks, i32(model.width(op["q"])), i32(num_heads), i32(num_kv_heads), i32(k_dim)),
        *(i32(v_dim), i32(group.window or 0), f32(op["scale"]), f32(op["softcap"] or 0)),
    )
    thread_blocks = num_kv_heads * ceil_divide(num_heads // num_kv_heads, _HEADS)

    def launch(step: StepInputs, rows: int) -> None:
        inputs = step.groups[number]
        tables = (inputs.block_tables, inputs.block_table_start_loc)
        arguments = (*arrays, step.positions, step.sequences, *tables, *sizes)
        device.launch(kernel, (thread_blocks, rows), 128, arguments)

    return launch
