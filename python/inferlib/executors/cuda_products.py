"""Products and attention as launches: what differs between the float32 and the 16-bit kernels.

Where the sums of a product are enough to go on (a gated activation, the largest logit), one kernel
does both, with the roundings and so the bits of the separate ops.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UnsupportedModelError
from .cuda_attention import HEAD_DIMS, decode_shared_bytes, is_latent, prefill_shared_bytes
from .cuda_latent import latent_attention
from .cuda_model import ceil_divide, kind_of
from .cuda_proofs import cache_map
from .cuda_sm90 import (
    ATTENTION_THREADS,
    LINEAR_TILES,
    attention_shared_bytes,
    linear_launch,
    linear_tile,
)
from .cuda_weights import FEW_ROWS, FUSED_LAYOUTS, GATED_ACTIVATIONS, PANEL_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..devices import DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_matrices import Segment
    from .cuda_model import DeviceModel, Launch

i32: type[np.int32] = np.int32
f32: type[np.float32] = np.float32
_SLICE_COLUMNS = 512
_ROWS_OF_TILES = (8, 64, 512)
"""Numbers of rows up to which a tile is chosen, by what it takes for that many; the last one for
all above, too."""
_MAX_HEAD_DIM = 256


def product(model: DeviceModel, x: str, weight: str, bias: DeviceArray | None, out: str) -> Launch:
    """``out = x @ weight.T + bias``, segment after segment."""
    segments = model.weights.matrices[weight]
    if model.kind == "f32":
        return _exact_product(model, segments[0], x, bias, out)
    launches = [
        (_rows_product if segment.layout == "rows" else _packed_product)(
            model, segment, x, bias, out
        )
        for segment in segments
    ]

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


def _rows_product(
    model: DeviceModel, matrix: Segment, x: str, bias: DeviceArray | None, out: str
) -> Launch:
    """By ``linear_sm90``, whatever the number of rows; that chooses the tile."""
    n, k = matrix.shape
    kinds = f"{model.kind}_{kind_of(model.buffers[out])}"
    part_of_bias = None if bias is None else bias[matrix.first_row : matrix.first_row + n]
    target = model.from_element(out, matrix.first_row)
    arrays = (target, matrix.codes, model.buffers[x], part_of_bias)
    launches = {
        tile: linear_launch(model.device, kinds, tile, arrays, model.width(out))
        for tile in LINEAR_TILES
    }

    def choose(rows: int) -> Callable[[int], None]:
        rows = min(rows, int(model.buffers[x].shape[0]))
        first = linear_tile(rows)
        tiles = {str(tile.rows): tile for tile in (first, *launches)}
        candidates = {name: partial(launches[tile], rows) for name, tile in tiles.items()}
        key = f"linear_sm90 {kinds} {n}x{k}, {rows}"
        return launches[tiles[model.choices.choose(key, candidates)]]

    chosen = [(most, choose(most)) for most in _ROWS_OF_TILES]

    def launch(_: StepInputs, rows: int) -> None:
        next((each for most, each in chosen if rows <= most), chosen[-1][1])(rows)

    return launch


def _packed_product(
    model: DeviceModel, matrix: Segment, x: str, bias: DeviceArray | None, out: str
) -> Launch:
    device, (n, k) = model.device, matrix.shape
    name = f"{_kinds(model, matrix)}_{kind_of(model.buffers[out])}"
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

    return _quickest(model, x, f"linear {name} {n}x{k}", few, many)


def _kinds(model: DeviceModel, matrix: Segment) -> str:
    """Of activations and weights, as the names of kernels have them."""
    return f"{model.kind}_{model.kind if matrix.layout == 'float' else matrix.layout}"


def _quickest(
    model: DeviceModel,
    x: str,
    name: str,
    few: Callable[[int], None],
    many: Callable[[int], None],
) -> Launch:
    """For each number of rows that both kernels have, the one that is quicker there."""

    def choose(rows: int) -> Callable[[int], None]:
        candidates = {"few": partial(few, rows), "many": partial(many, rows)}
        return few if model.choices.choose(f"{name}, {rows}", candidates) == "few" else many

    most = min(FEW_ROWS, int(model.buffers[x].shape[0]))
    chosen = [choose(rows) for rows in range(1, most + 1)]
    return lambda _, rows: (chosen[rows - 1] if rows <= most else many)(rows)


def gated_product(
    model: DeviceModel, linear: dict[str, Any], bias: DeviceArray | None, act: dict[str, Any]
) -> Launch | None:
    """``linear`` and the ``act_and_mul`` behind it; ``None`` if there is no kernel for both."""
    segments = model.weights.matrices[linear["weight"]]
    matrix, width = segments[0], model.width(act["out"])
    if len(segments) > 1 or matrix.layout not in FUSED_LAYOUTS or width % PANEL_ROWS:
        return None
    if act["activation"] not in GATED_ACTIVATIONS:
        return None
    device, k, x = model.device, matrix.shape[1], linear["x"]
    name = f"{_kinds(model, matrix)}_{act['activation']}"
    arrays = [model.buffers[act["out"]], model.buffers[x]]
    for first in (0, width):
        panels = slice(first // PANEL_ROWS, (first + width) // PANEL_ROWS)
        scales = None if matrix.scales is None else matrix.scales[panels]
        arrays += [matrix.codes[panels], scales]
        arrays.append(None if bias is None else bias[first : first + width])
    sizes = (i32(width), i32(k), i32(matrix.group))
    shared_bytes = 2 * ceil_divide(k, _SLICE_COLUMNS) * 512

    def few(rows: int) -> None:
        device.launch(
            f"gated_few_{name}",
            (ceil_divide(width, 16),),
            128,
            (*arrays, i32(rows), *sizes),
            shared_bytes=shared_bytes,
        )

    def many(rows: int) -> None:
        tiles = (ceil_divide(width, 64), ceil_divide(rows, 64))
        device.launch(f"gated_many_{name}", tiles, 128, (*arrays, i32(rows), *sizes))

    return _quickest(model, x, f"gated {name} {width}x{k}", few, many)


def embedding_packed(
    model: DeviceModel, op: dict[str, Any], ids_of: Callable[[StepInputs], DeviceArray]
) -> Launch:
    """Tokens or positions looked up in a packed matrix."""
    device, (matrix,) = model.device, model.weights.matrices[op["weight"]]
    kernel = f"embedding_packed_{_kinds(model, matrix)}"
    arrays = (model.buffers[op["out"]], matrix.codes, matrix.scales)
    sizes = (i32(matrix.shape[1]), i32(matrix.group), f32(op["scale"]))
    return lambda step, rows: device.launch(kernel, (rows,), 128, (*arrays, ids_of(step), *sizes))


def greedy_head(
    model: DeviceModel, head: dict[str, Any], partials: tuple[DeviceArray, DeviceArray] | None
) -> Callable[[StepInputs, int, int], None] | None:
    """Logits and the largest of each row, for at most ``FEW_ROWS`` rows.

    Args:
        model: Everything.
        head: The op ``lm_head``.
        partials: Room for the largest of each panel; ``None`` where no kernel needs it.

    Returns:
        Launches for the sampled rows from the second argument to the third, whose states are the
        first ones of the head's input; ``None`` if there is no kernel for it.
    """
    segments = model.weights.matrices[head["weight"]]
    matrix = segments[0]
    if partials is None or len(segments) > 1 or matrix.layout not in FUSED_LAYOUTS:
        return None
    device, (n, k) = model.device, matrix.shape
    kernel = f"lm_head_argmax_{_kinds(model, matrix)}"
    panels = ceil_divide(n, PANEL_ROWS)
    arrays = (*partials, model.buffers[head["x"]], matrix.codes, matrix.scales)
    sizes = (i32(n), i32(k), i32(matrix.group), f32(head["softcap"] or 0))
    shared_bytes = ceil_divide(k, _SLICE_COLUMNS) * 512

    def launch(step: StepInputs, start: int, end: int) -> None:
        arguments = (*arrays, i32(end - start), *sizes)
        device.launch(kernel, (panels,), 128, arguments, shared_bytes=shared_bytes)
        found = (step.token_ids[start:end], step.failed[start:end], *partials, i32(panels))
        device.launch("lm_head_argmax_combine", (end - start,), 1024, found)

    return launch


def attention(model: DeviceModel, op: dict[str, Any]) -> Launch:
    """Causal attention of the step's queries to their sequences' blocks."""
    group = model.program.kv_groups[op["kv_group"]]
    if is_latent(group):
        return latent_attention(model, op, _sinks(model, op))
    head_dim = group.k_head_dim
    supported = HEAD_DIMS.get(model.kind, range(4, _MAX_HEAD_DIM + 1, 4))
    if head_dim not in supported:
        sizes = "multiples of 4 up to 256"
        if model.kind != "f32":
            sizes = ", ".join(str(each) for each in supported)
        raise UnsupportedModelError(
            f"heads of {head_dim} elements; the CUDA kernels for this precision know {sizes}"
        )
    return _exact_attention(model, op) if model.kind == "f32" else _attention(model, op)


def _exact_attention(model: DeviceModel, op: dict[str, Any]) -> Launch:
    group = model.program.kv_groups[op["kv_group"]]
    device, number, num_heads = model.device, op["kv_group"], op["num_heads"]
    cache = model.kv[op["kv_group"], op["kv_layer"]]
    q, out = model.from_element(op["q"], op["q_start"]), model.buffers[op["out"]]
    sizes = (
        *(_sinks(model, op), i32(model.width(op["q"])), i32(num_heads), i32(group.num_kv_heads)),
        *(i32(group.k_head_dim), i32(group.window or 0), f32(op["scale"]), f32(op["softcap"] or 0)),
    )

    def launch(step: StepInputs, rows: int) -> None:
        inputs = step.groups[number]
        tables = (inputs.block_tables, inputs.block_table_start_loc)
        arrays = (out, q, *cache, step.positions, step.sequences, *tables)
        grid = (ceil_divide(num_heads, 4), rows)
        device.launch("attention_f32", grid, 128, (*arrays, *sizes))

    return launch


def _sinks(model: DeviceModel, op: dict[str, Any]) -> DeviceArray | None:
    return model.weights.vectors[op["sinks"]] if op["sinks"] else None


def _attention(model: DeviceModel, op: dict[str, Any]) -> Launch:
    group = model.program.kv_groups[op["kv_group"]]
    device, number = model.device, op["kv_group"]
    num_heads, num_kv_heads, head_dim = op["num_heads"], group.num_kv_heads, group.k_head_dim
    model.attended[number] = num_heads // num_kv_heads
    cache = model.kv[op["kv_group"], op["kv_layer"]]
    q, out = model.from_element(op["q"], op["q_start"]), model.buffers[op["out"]]
    name = f"{model.kind}_{head_dim}"
    sinks, heads = _sinks(model, op), (i32(num_heads), i32(num_kv_heads))
    settings = (i32(group.window or 0), f32(op["scale"]), f32(op["softcap"] or 0))
    prefill, threads, shared_bytes = (
        f"attention_prefill_{name}",
        128,
        prefill_shared_bytes(head_dim),
    )
    prefilled: tuple[Any, ...] = (q, *cache)
    if model.prefills_by_sm90(head_dim):
        prefill, threads = f"attention_prefill_sm90_{name}", ATTENTION_THREADS
        shared_bytes = attention_shared_bytes(head_dim)
        prefilled = (*(cache_map(each) for each in cache), q)

    def launch(step: StepInputs, _: int) -> None:
        inputs = step.groups[number]
        common = (
            *(step.positions, step.query_start_loc),
            *(inputs.block_tables, inputs.block_table_start_loc),
            *(sinks, i32(model.width(op["q"])), *heads, *settings),
        )
        if len(inputs.prefill_tiles):
            device.launch(
                prefill,
                (len(inputs.prefill_tiles) // 2, num_kv_heads),
                threads,
                (out, inputs.prefill_tiles, *prefilled, *common),
                shared_bytes=shared_bytes,
            )
        for items, tiles in inputs.decode_rounds:
            device.launch(
                f"attention_decode_{name}",
                (len(items) // 3, num_kv_heads),
                32,
                (*model.partials, items, q, *cache, *common),
                shared_bytes=decode_shared_bytes(head_dim),
            )
            device.launch(
                f"attention_decode_combine_{name}",
                (len(tiles) // 4, num_kv_heads, 16),
                128,
                (out, *model.partials, tiles, step.query_start_loc, sinks, *heads),
            )

    return launch
