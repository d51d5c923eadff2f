"""Ops of a ``Program`` as launches of kernels, neighbours fused where one kernel does both.

A fused kernel rounds wherever the separate ones would store, so fusing changes no bit. Each
function here gives one ``Launch``: a closure over buffers that needs only the step's inputs and row
count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .cuda_attention import is_latent
from .cuda_experts import mixture
from .cuda_latent import head_product
from .cuda_model import ceil_divide, kind_of
from .cuda_products import attention, embedding_packed, gated_product, product

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .._core import Program
    from ..devices import DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_model import DeviceModel, Launch

    Op: TypeAlias = tuple[str, dict[str, Any]]

i32: type[np.int32] = np.int32
f32: type[np.float32] = np.float32
_MOST_OF_HEAD = 256
"""Elements of a head in ``rope_store_kv``."""


def plan_launches(model: DeviceModel, ops: Sequence[Op]) -> list[Launch]:
    """Turn ops into launches.

    Raises:
        UnsupportedModelError: There is no kernel for an op of this kind or size.
    """
    ops = [op for op in ops if op[0] != "capture"]
    activated = _only_activated(model.program)
    launches: list[Launch] = []
    place = 0
    while place < len(ops):
        launch, used = _fused(model, ops, place, activated)
        launches.append(launch)
        place += used
    return launches


def _fused(
    model: DeviceModel, ops: Sequence[Op], place: int, activated: Collection[str]
) -> tuple[Launch, int]:
    """The launch of the op at ``place`` and of those behind it that it takes along; how many."""
    length = _length_of_store(model, ops, place)
    if length:
        return _rope_store_kv(model, ops[place : place + length]), length
    kind, op = ops[place]
    if kind == "add" and place + 1 < len(ops):
        following, norm = ops[place + 1]
        if following == "rms_norm" and _normalises_sum(model, op, norm):
            return _add_rms_norm(model, op, norm), 2
        if following == "layer_norm" and norm["x"] == op["out"] == op["a"] != norm["out"]:
            return _add_layer_norm(model, op, norm), 2
    if kind == "linear" and op["out"] in activated:
        launch = gated_product(model, op, _bias(model, op), ops[place + 1][1])
        if launch is not None:
            return launch, 2
    return _SINGLE[kind](model, op), 1


def _normalises_sum(model: DeviceModel, add: dict[str, Any], norm: dict[str, Any]) -> bool:
    """Whether ``norm`` reads all of what ``add`` wrote in place, and writes elsewhere."""
    width = model.width(add["out"])
    is_whole = norm["length"] == width == model.weights.vectors[norm["weight"]].shape[0]
    is_same = norm["x"] == add["out"] == add["a"] != norm["out"]
    return bool(is_whole and is_same)


def _only_activated(program: Program) -> frozenset[str]:
    """Buffers in which nothing is but products that the very next op activates."""
    ops = [op for op in program.ops if op[0] != "capture"]
    buffers = program.buffers
    activated: set[str] = set()
    others: set[str] = set()
    for place, (kind, op) in enumerate(ops):
        for field, buffer in op.items():
            if field == "out" or not isinstance(buffer, str) or buffer not in buffers:
                continue
            before, product = ops[place - 1] if place else ("", {})
            is_product = before == "linear" and product["out"] == buffer
            (activated if kind == "act_and_mul" and is_product else others).add(buffer)
    return frozenset(activated - others)


def _length_of_store(model: DeviceModel, ops: Sequence[Op], place: int) -> int:
    """How many ops from ``place`` on are head norms, a turn and a store of one row; 0 if none."""
    for length, (kind, _) in enumerate(ops[place : place + 4], 1):
        if kind == "store_kv":
            return length if _fits_one_kernel(model, ops[place : place + length]) else 0
        if kind not in ("rms_norm", "rope"):
            return 0
    return 0


def _fits_one_kernel(model: DeviceModel, ops: Sequence[Op]) -> bool:
    _, store = ops[-1]
    group = model.program.kv_groups[store["kv_group"]]
    row, head_dim = store["x"], group.k_head_dim
    num_kv = group.num_kv_heads * head_dim
    is_contiguous = store["v_start"] == store["k_start"] + num_kv
    if is_latent(group) or head_dim > _MOST_OF_HEAD or not is_contiguous:
        return False
    if store["k_start"] % head_dim:
        return False
    norm_starts, seen_rope = [], False
    for kind, op in ops[:-1]:
        if op["x"] != row:
            return False
        if kind == "rope":
            heads = (store["k_start"] + num_kv) // head_dim
            if seen_rope or (op["start"], op["num_heads"], op["head_dim"]) != (0, heads, head_dim):
                return False
            seen_rope = True
        else:
            group_width = model.weights.vectors[op["weight"]].shape[0]
            if seen_rope or op["out"] != row or group_width != head_dim:
                return False
            norm_starts.append((op["start"], op["length"]))
    return set(norm_starts) <= {(0, store["k_start"]), (store["k_start"], num_kv)}


def _rope_store_kv(model: DeviceModel, ops: Sequence[Op]) -> Launch:
    _, store = ops[-1]
    group = model.program.kv_groups[store["kv_group"]]
    device, kernel = model.device, f"rope_store_kv_{model.kind}"
    k_cache, v_cache = model.kv[store["kv_group"], store["kv_layer"]]
    norms: dict[int, DeviceArray] = {}
    inv_freq, num_pairs, rope_scale, eps = None, 0, 1.0, 0.0
    for kind, op in ops[:-1]:
        if kind == "rope":
            inv_freq, num_pairs, rope_scale = (
                model.frequencies(op),
                len(op["inv_freq"]),
                op["scale"],
            )
        else:
            norms[op["start"]], eps = model.weights.vectors[op["weight"]], op["eps"]
    num_heads = store["k_start"] // group.k_head_dim
    thread_blocks = ceil_divide(num_heads + 2 * group.num_kv_heads, 4)
    qkv, number = model.buffers[store["x"]], store["kv_group"]
    sizes = (
        *(i32(model.width(store["x"])), i32(num_heads), i32(group.num_kv_heads)),
        *(i32(group.k_head_dim), i32(num_pairs), f32(rope_scale), f32(eps)),
    )
    q_norm, k_norm = norms.get(0), norms.get(store["k_start"])

    def launch(step: StepInputs, rows: int) -> None:
        slots = step.groups[number].slot_mapping
        arrays = (qkv, k_cache, v_cache, step.positions, slots, inv_freq, q_norm, k_norm)
        device.launch(kernel, (thread_blocks, rows), 128, (*arrays, *sizes))

    return launch


def _rope(model: DeviceModel, op: dict[str, Any]) -> Launch:
    """Heads turned in place, where nothing is stored at once."""
    device, kernel = model.device, f"rope_{model.kind}"
    x, inv_freq = model.from_element(op["x"], op["start"]), model.frequencies(op)
    num_pairs = len(op["inv_freq"])
    thread_blocks = ceil_divide(op["num_heads"] * num_pairs, 128)
    sizes = (
        *(i32(model.width(op["x"])), i32(op["num_heads"]), i32(op["head_dim"]), i32(num_pairs)),
        f32(op["scale"]),
    )
    return lambda step, rows: device.launch(
        kernel, (thread_blocks, rows), 128, (x, step.positions, inv_freq, *sizes)
    )


def _store_kv(model: DeviceModel, op: dict[str, Any]) -> Launch:
    """Keys and values as they lie in a row, whatever their widths."""
    number, group = op["kv_group"], model.program.kv_groups[op["kv_group"]]
    device, kernel = model.device, f"store_kv_{model.kind}"
    arrays = (model.buffers[op["x"]], *model.kv[number, op["kv_layer"]])
    sizes = (
        *(i32(model.width(op["x"])), i32(op["k_start"]), i32(op["v_start"])),
        *(i32(group.num_kv_heads), i32(group.k_head_dim), i32(group.v_head_dim)),
    )
    return lambda step, rows: device.launch(
        kernel, (rows,), 128, (*arrays, step.groups[number].slot_mapping, *sizes)
    )


def _add_rms_norm(model: DeviceModel, add: dict[str, Any], norm: dict[str, Any]) -> Launch:
    device, kernel = model.device, f"rms_norm_add_{model.kind}"
    arguments = (
        *(model.buffers[norm["out"]], model.buffers[add["a"]], model.buffers[add["b"]]),
        *(model.weights.vectors[norm["weight"]], i32(norm["length"]), f32(norm["eps"])),
    )
    return lambda _, rows: device.launch(kernel, (rows,), 128, arguments)


def _add_layer_norm(model: DeviceModel, add: dict[str, Any], norm: dict[str, Any]) -> Launch:
    device, kernel = model.device, f"layer_norm_add_{model.kind}"
    arguments = (
        *(model.buffers[norm["out"]], model.buffers[add["a"]], model.buffers[add["b"]]),
        *_layer_norm_weights(model, norm),
    )
    return lambda _, rows: device.launch(kernel, (rows,), 128, arguments)


def _embedding(model: DeviceModel, op: dict[str, Any]) -> Launch:
    return _look_up(model, op, lambda step: step.token_ids)


def _position_embedding(model: DeviceModel, op: dict[str, Any]) -> Launch:
    return _look_up(model, {**op, "scale": 1.0}, lambda step: step.positions)


def _look_up(
    model: DeviceModel, op: dict[str, Any], ids_of: Callable[[StepInputs], DeviceArray]
) -> Launch:
    device, out = model.device, model.buffers[op["out"]]
    table = model.weights.tables.get(op["weight"])
    if table is None:
        return embedding_packed(model, op, ids_of)
    kernel = f"embedding_{model.kind}_{kind_of(table)}"
    sizes = (i32(table.shape[1]), f32(op["scale"]))
    return lambda step, rows: device.launch(
        kernel, (rows,), 128, (out, table, ids_of(step), *sizes)
    )


def _rms_norm(model: DeviceModel, op: dict[str, Any]) -> Launch:
    device, kernel = model.device, f"rms_norm_{model.kind}"
    weight = model.weights.vectors[op["weight"]]
    width = int(weight.shape[0])
    groups = op["length"] // width
    arguments = (
        *(model.from_element(op["out"], op["start"]), model.from_element(op["x"], op["start"])),
        *(weight, i32(width), i32(model.width(op["x"])), i32(model.width(op["out"]))),
        f32(op["eps"]),
    )
    return lambda _, rows: device.launch(kernel, (rows, groups), 128, arguments)


def _layer_norm(model: DeviceModel, op: dict[str, Any]) -> Launch:
    device, kernel = model.device, f"layer_norm_{model.kind}"
    buffers = (model.buffers[op["out"]], model.buffers[op["x"]])
    arguments = (*buffers, *_layer_norm_weights(model, op))
    return lambda _, rows: device.launch(kernel, (rows,), 128, arguments)


def _layer_norm_weights(model: DeviceModel, op: dict[str, Any]) -> tuple[Any, ...]:
    weight = model.weights.vectors[op["weight"]]
    return weight, _bias(model, op), i32(weight.shape[0]), f32(op["eps"])


def _linear(model: DeviceModel, op: dict[str, Any]) -> Launch:
    return product(model, op["x"], op["weight"], _bias(model, op), op["out"])


def _bias(model: DeviceModel, op: dict[str, Any]) -> DeviceArray | None:
    return model.weights.vectors[op["bias"]] if op["bias"] else None


def _act_and_mul(model: DeviceModel, op: dict[str, Any]) -> Launch:
    device, width = model.device, model.width(op["out"])
    kernel = f"act_and_mul_{op['activation']}_{model.kind}"
    arguments = (model.buffers[op["out"]], model.buffers[op["x"]], i32(width))
    return lambda _, rows: device.launch(kernel, (ceil_divide(width, 512), rows), 128, arguments)


def _activation(model: DeviceModel, op: dict[str, Any]) -> Launch:
    kernel = f"activation_{op['activation']}_{model.kind}"
    return _each_element(model, kernel, [op["out"], op["x"]])


def _add(model: DeviceModel, op: dict[str, Any]) -> Launch:
    return _each_element(model, f"add_{model.kind}", [op[name] for name in ("out", "a", "b")])


def _scale(model: DeviceModel, op: dict[str, Any]) -> Launch:
    return _each_element(model, f"scale_{model.kind}", [op["x"]], f32(op["scale"]))


def _each_element(
    model: DeviceModel, kernel: str, buffers: Sequence[str], *options: np.generic
) -> Launch:
    """Launches for all elements of some rows, wherever one row ends."""
    device, width = model.device, model.width(buffers[0])
    arrays = tuple(model.buffers[name] for name in buffers)

    def launch(_: StepInputs, rows: int) -> None:
        size = rows * width
        device.launch(kernel, (ceil_divide(size, 1024),), 256, (*arrays, i32(size), *options))

    return launch


def _gather_rows(model: DeviceModel, op: dict[str, Any]) -> Launch:
    device, kernel = model.device, f"gather_rows_{model.kind}"
    out, x, width = model.buffers[op["out"]], model.buffers[op["x"]], i32(model.width(op["x"]))
    return lambda step, rows: device.launch(
        kernel, (rows,), 128, (out, x, step.logits_indices, width)
    )


def _lm_head(model: DeviceModel, op: dict[str, Any]) -> Launch:
    multiply = product(model, op["x"], op["weight"], None, op["out"])
    if op["softcap"] is None:
        return multiply
    device, cap = model.device, f32(op["softcap"])
    logits, width = model.buffers[op["out"]], model.width(op["out"])

    def launch(step: StepInputs, rows: int) -> None:
        multiply(step, rows)
        size = rows * width
        device.launch("softcap_f32", (ceil_divide(size, 256),), 256, (logits, i32(size), cap))

    return launch


_SINGLE: dict[str, Callable[[DeviceModel, dict[str, Any]], Launch]] = {
    "embedding": _embedding,
    "position_embedding": _position_embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "linear": _linear,
    "head_linear": head_product,
    "rope": _rope,
    "store_kv": _store_kv,
    "attention": attention,
    "act_and_mul": _act_and_mul,
    "activation": _activation,
    "add": _add,
    "scale": _scale,
    "moe": mixture,
    "gather_rows": _gather_rows,
    "lm_head": _lm_head,
}
