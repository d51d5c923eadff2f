"""How long each kernel of a step takes, beside what the device can do."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cuda_models import RandomWeights, spec_of
from inferlib.executors.cuda_files import files_of_program
from inferlib.executors.cuda_launches import ProgramLaunches, kv_cache
from inferlib.executors.cuda_matrices import DeviceWeights
from inferlib.executors.cuda_memory import StepLimits
from inferlib.executors.cuda_proofs import linear_is_proven
from inferlib.executors.cuda_step import HostDraws, HostGroup, HostStep
from inferlib.executors.tensor_maps import TensorMap
from inferlib.transformer import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.cuda_models import Weights
    from inferlib.devices import Device

BLOCK_SIZE = 16
_STREAMED_BYTES = 1 << 30
"""Of each array that bandwidth is measured with: more than any cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A step: sequences, their rows, and the tokens that they have then."""

    name: str
    seqs: int
    rows: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """All launches of one kernel in a step.

    Attributes:
        kernel: Its name.
        launches: How many.
        seconds: Of all of them.
        num_bytes: That they must read: weights, or keys and values; 0 where that is little.
        flops: Twice their multiply-adds; 0 as above.
    """

    kernel: str
    launches: int
    seconds: float
    num_bytes: int
    flops: int


def seconds_of(device: Device, launch: Callable[[], None], *, min_seconds: float) -> float:
    """One run of some launches as a graph, the mean of many."""
    launch()  # loads the kernels
    graph = device.graph(launch)
    graph.launch()
    device.synchronize()
    count, elapsed = 1, 0.0
    while True:
        start = time.perf_counter()
        for _ in range(count):
            graph.launch()
        device.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed >= min_seconds or count >= 1 << 16:
            return elapsed / count
        count *= 2


def read_write_gb_s(device: Device, *, num_bytes: int = _STREAMED_BYTES) -> float:
    """Bytes that the sum of two arrays reads and writes, in 1e9 per second: the measured HBM."""
    size = num_bytes // 4
    arrays = [device.alloc((size,), np.float32, "bandwidth") for _ in range(3)]
    for array in arrays[1:]:
        block = np.ones(min(size, 1 << 20), np.float32)
        for start in range(0, size, len(block)):
            part = array[start : start + len(block)]
            device.upload(part, block[: part.shape[0]])
    grid = (-(-size // 1024),)
    seconds = seconds_of(
        device,
        lambda: device.launch("add_f32", grid, 256, (*arrays, np.int32(size))),
        min_seconds=0.0 if num_bytes < _STREAMED_BYTES else 0.2,
    )
    return 3 * 4 * size / seconds / 1e9


class Recorder:
    """A device that writes down its launches instead of starting them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.launches: list[tuple[str, tuple[Any, ...], dict[str, Any]]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(self, kernel: str, *arguments: Any, **options: Any) -> None:
        if self.launches is None:
            self._device.launch(kernel, *arguments, **options)
        else:
            self.launches.append((kernel, arguments, options))


def kernel_times(
    device: Device, model: str, weights: Weights, cases: Sequence[Case], *, min_seconds: float
) -> Iterator[tuple[Case, list[KernelTime]]]:
    """Every kernel of each step, slowest first. Weights are rotated: each layer has its own."""
    program = record(spec_of(model))
    recorder = Recorder(device)
    rows = max(case.seqs * case.rows for case in cases)
    limits = StepLimits(
        rows=rows,
        seqs=max(case.seqs for case in cases),
        model_len=max(case.context for case in cases),
    )
    blocks = max(case.seqs * -(-case.context // BLOCK_SIZE) for case in cases)
    recorder.prepare(files_of_program(program, "bf16", recorder.architecture))
    has_rows = linear_is_proven(recorder, "bf16")
    target = DeviceWeights(recorder, program, "bf16", has_rows=has_rows)
    kv = kv_cache(recorder, program, "bf16", blocks)
    RandomWeights(weights).load(target, recorder, program)
    launches = ProgramLaunches(
        recorder, program, "bf16", limits, weights=target, kv=kv, scratch_block=blocks
    )
    group = program.kv_groups[0]
    for case in cases:
        step = step_of(case, len(program.kv_groups))
        inputs = launches.inputs.stage(step, launches.inputs.work(step))
        recorder.launches = []
        launches.all(inputs, "greedy")
        recorded, recorder.launches = recorder.launches, None
        by_kernel = defaultdict(list)
        for kernel, arguments, options in recorded:
            by_kernel[kernel].append((arguments, options))
        seen = case.seqs * sum(range(case.context - case.rows + 1, case.context + 1))
        work = {
            "bytes": 2 * 2 * case.seqs * case.context * group.num_kv_heads * group.k_head_dim,
            "flops": 4 * seen * num_heads(program) * group.k_head_dim,
        }
        times = [
            _time(device, kernel, calls, work, min_seconds) for kernel, calls in by_kernel.items()
        ]
        yield case, sorted(times, key=lambda each: -each.seconds)


def num_heads(program: Any) -> int:
    """Query heads of the first layer."""
    return int(next(op["num_heads"] for kind, op in program.ops if kind == "attention"))


# Kernels that read weights: where those are among the arguments, and where the number of rows is,
# behind which outputs and columns follow. A gated product has two matrices of as many outputs.
_PRODUCTS = {
    "linear_few": ((2, 3), 5),
    "linear_many": ((2, 3), 5),
    "linear_sm90": ((1,), 4),
    "gated": ((2, 3, 5, 6), 8),
    "lm_head_argmax_bf16": ((3, 4), 5),
}


def product_of(kernel: str, values: Sequence[Any]) -> tuple[list[Any], int, int, int]:
    """The weights that a launch reads, its rows, outputs and columns."""
    places, at = next(found for name, found in _PRODUCTS.items() if kernel.startswith(name))
    arrays = [values[place] for place in places]
    arrays = [each.array if isinstance(each, TensorMap) else each for each in arrays]
    rows, n, k = (int(each) for each in values[at : at + 3])
    return arrays, rows, 2 * n if kernel.startswith("gated") else n, k


def _time(
    device: Device,
    kernel: str,
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    attention: dict[str, int],
    min_seconds: float,
) -> KernelTime:
    def launch() -> None:
        for arguments, options in calls:
            device.launch(kernel, *arguments, **options)

    num_bytes = flops = 0
    if kernel.startswith(tuple(_PRODUCTS)):
        for (_, _, values), _ in calls:
            arrays, rows, n, k = product_of(kernel, values)
            num_bytes += sum(each.nbytes for each in arrays if each is not None)
            flops += 2 * rows * n * k
    elif kernel.startswith(("attention_decode", "attention_prefill")) and "combine" not in kernel:
        num_bytes, flops = attention["bytes"] * len(calls), attention["flops"] * len(calls)
    return KernelTime(
        kernel=kernel,
        launches=len(calls),
        seconds=seconds_of(device, launch, min_seconds=min_seconds),
        num_bytes=num_bytes,
        flops=flops,
    )


def step_of(case: Case, num_groups: int) -> HostStep:
    """Sequences of equal length, the last row of each drawn; blocks one after the other."""
    seqs, rows, blocks = case.seqs, case.rows, -(-case.context // BLOCK_SIZE)
    i32 = np.int32
    positions = np.tile(np.arange(case.context - rows, case.context, dtype=i32), seqs)
    first_block = np.repeat(np.arange(seqs, dtype=i32) * blocks, rows)
    group = HostGroup(
        slot_mapping=first_block * i32(BLOCK_SIZE) + positions,
        block_table_start_loc=np.arange(seqs + 1, dtype=i32) * i32(blocks),
        block_tables=np.arange(seqs * blocks, dtype=i32),
        block_copies=np.empty(0, i32),
    )
    zeros = np.zeros(seqs, i32)
    floats = np.zeros(seqs, np.float32)
    return HostStep(
        token_ids=np.arange(seqs * rows, dtype=i32) % i32(257),
        positions=positions,
        query_start_loc=np.arange(seqs + 1, dtype=i32) * i32(rows),
        logits_indices=np.arange(1, seqs + 1, dtype=i32) * i32(rows) - i32(1),
        groups=(group,) * num_groups,
        draws=HostDraws(
            is_plain=np.ones(seqs, np.bool_),
            is_argmax=np.ones(seqs, np.bool_),
            num_tokens_left=zeros,
            temperature=floats,
            top_k=zeros,
            top_p=floats + 1,
            min_p=floats,
            seeds=np.zeros(seqs, np.uint64),
            sequence_indices=zeros,
            positions=zeros,
        ),
    )
