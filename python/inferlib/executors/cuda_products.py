"""Products and attention as launches: what differs between the float32 and the 16-bit kernels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UnsupportedModelError
from .cuda_attention import HEAD_DIMS, decode_shared_bytes, prefill_shared_bytes
from .cuda_model import ceil_divide, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..devices import DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_matrices import Segment
    from .cuda_model import DeviceModel, Launch

i32: type[np.int32] = np.int32
f32: type[np.float32] = np.float32
_FEW_ROWS = 8
_SLICE_COLUMNS = 512
_MAX_HEAD_DIM = 256


def product(model: DeviceModel, x: str, weight: str, bias: DeviceArray | None, out: str) -> Launch:
    """``out = x @ weight.T + bias``, segment after segment."""
    segments = model.weights.matrices[weight]
    if segments[0].layout == "rows":
        return _exact_product(model, segments[0], x, bias, out)
    launches = [_packed_product(model, segment, x, bias, out) for segment in segments]

    def launch(step: StepInputs, rows: int) -> None:
        for each in launches:
            each(step, rows)

    return launch


def _exact_product(
    model: DeviceModel, matrix: Segment, x: str, bias: DeviceArray | None, out: str
) -> Launch:
    device, (n, k) = model.device, matrix.shape
    kernel, grid = f"linear_f32_{kind_of(matrix.codes)}", ceil_divide(n, 4)
    arrays = (model.buffers[out], model.buffers[x], matrix.codes, bias)
    return lambda _, rows: device.launch(
        kernel, (grid, ceil_divide(rows, 8)), 128, (*arrays, i32(rows), i32(n), i32(k))
    )


def _packed_product(
    model: DeviceModel, matrix: Segment, x: str, bias: DeviceArray | None, out: str
) -> Launch:
    device, (n, k) = model.device, matrix.shape
    weight = model.kind if matrix.layout == "float" else matrix.layout
    name = f"{model.kind}_{weight}_{kind_of(model.buffers[out])}"
    part_of_bias = None if bias is None else bias[matrix.first_row : matrix.first_row + n]
    arrays = (
        *(model.from_element(out, matrix.first_row), model.buffers[x]),
        *(matrix.codes, matrix.scales, part_of_bias),
    )
    sizes = (i32(n), i32(k), i32(matrix.group), i32(model.width(out)))
    shared_bytes = ceil_divide(k, _SLICE_COLUMNS) * 512

    def few(rows: int) -> None:
        device.launch(
            f"linear_few_{name}",
            (ceil_divide(n, 16),),
            128,
            (*arrays, i32(rows), *sizes),
            shared_bytes=shared_bytes,
        )

    def many(rows: int) -> None:
        tiles = (ceil_divide(n, 128), ceil_divide(rows, 64))
        device.launch(f"linear_many_{name}", tiles, 128, (*arrays, i32(rows), *sizes))

    most = min(_FEW_ROWS, int(model.buffers[x].shape[0]))
    chosen = [_quickest(model, f"{name} {n}x{k}", few, many, rows) for rows in range(1, most + 1)]
    return lambda _, rows: (chosen[rows - 1] if rows <= most else many)(rows)


def _quickest(
    model: DeviceModel,
    shape: str,
    few: Callable[[int], None],
    many: Callable[[int], None],
    rows: int,
) -> Callable[[int], None]:
    """The kernel for a number of rows that both have."""
    candidates = {"few": partial(few, rows), "many": partial(many, rows)}
    return few if model.choices.choose(f"linear {shape}, {rows}", candidates) == "few" else many


def attention(model: DeviceModel, op: dict[str, Any]) -> Launch:
    """Causal attention of the step's queries to their sequences' blocks."""
    group = model.program.kv_groups[op["kv_group"]]
    head_dim = group.k_head_dim
    supported = range(4, _MAX_HEAD_DIM + 1, 4) if model.kind == "f32" else HEAD_DIMS
    if head_dim != group.v_head_dim or head_dim not in supported:
        sizes = "multiples of 4 up to 256" if model.kind == "f32" else "64, 128 and 256"
        raise UnsupportedModelError(
            f"heads of {head_dim} (K) and {group.v_head_dim} (V) elements; the CUDA kernels for "
            f"this precision know {sizes}"
        )
    return _exact_attention(model, op) if model.kind == "f32" else _attention(model, op)


def _exact_attention(model: DeviceModel, op: dict[str, Any]) -> Launch:
    group = model.program.kv_groups[op["kv_group"]]
    device, number, num_heads = model.device, op["kv_group"], op["num_heads"]
    cache = model.kv[op["kv_group"], op["kv_layer"]]
    q, out = model.from_element(op["q"], op["q_start"]), model.buffers[op["out"]]
    sizes = (
        *(i32(model.width(op["q"])), i32(num_heads), i32(group.num_kv_heads)),
        *(i32(group.k_head_dim), i32(group.window or 0), f32(op["scale"]), f32(op["softcap"] or 0)),
    )

    def launch(step: StepInputs, rows: int) -> None:
        inputs = step.groups[number]
        tables = (inputs.block_tables, inputs.block_table_start_loc)
        arrays = (out, q, *cache, step.positions, step.sequences, *tables)
        grid = (ceil_divide(num_heads, 4), rows)
        device.launch("attention_f32", grid, 128, (*arrays, *sizes))

    return launch


def _attention(model: DeviceModel, op: dict[str, Any]) -> Launch:
    group = model.program.kv_groups[op["kv_group"]]
    device, number = model.device, op["kv_group"]
    num_heads, num_kv_heads, head_dim = op["num_heads"], group.num_kv_heads, group.k_head_dim
    model.attended[number] = num_heads // num_kv_heads
    cache = model.kv[op["kv_group"], op["kv_layer"]]
    q, out = model.from_element(op["q"], op["q_start"]), model.buffers[op["out"]]
    name = f"{model.kind}_{head_dim}"
    heads = (i32(num_heads), i32(num_kv_heads))
    settings = (i32(group.window or 0), f32(op["scale"]), f32(op["softcap"] or 0))

    def launch(step: StepInputs, _: int) -> None:
        inputs = step.groups[number]
        common = (
            *(q, *cache, step.positions, step.query_start_loc),
            *(inputs.block_tables, inputs.block_table_start_loc),
            *(i32(model.width(op["q"])), *heads, *settings),
        )
        if len(inputs.prefill_tiles):
            device.launch(
                f"attention_prefill_{name}",
                (len(inputs.prefill_tiles) // 2, num_kv_heads),
                128,
                (out, inputs.prefill_tiles, *common),
                shared_bytes=prefill_shared_bytes(head_dim),
            )
        for items, tiles in inputs.decode_rounds:
            device.launch(
                f"attention_decode_{name}",
                (len(items) // 3, num_kv_heads),
                32,
                (*model.partials, items, *common),
                shared_bytes=decode_shared_bytes(head_dim),
            )
            device.launch(
                f"attention_decode_combine_{name}",
                (len(tiles) // 4, num_kv_heads, 16),
                128,
                (out, *model.partials, tiles, step.query_start_loc, *heads),
            )

    return launch
