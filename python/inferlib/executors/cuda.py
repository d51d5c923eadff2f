"""The CUDA executor: weights, KV cache and buffers on a device, a program as launches of kernels.

``precision="exact"`` has float32 activations and KV cache. The others have bf16 ones, and weights
as they are stored (int4 and int8 groups, 16-bit floats); sums are float32 in all kernels.
Everything is allocated before the first step but the step's own inputs and attention's scratch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import StepOutput, sample_rows
from ..config import BLOCK_SIZE
from ..errors import ClosedError, ModelFormatError, RequestError
from .cuda_inputs import InputBuffer
from .cuda_matrices import DeviceWeights
from .cuda_model import DeviceModel, Partials
from .cuda_ops import plan_launches

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from .._core import Batch, Program
    from ..config import EngineConfig
    from ..devices import Device, DeviceArray
    from .base import WeightReceiver
    from .cuda_inputs import StepInputs
    from .cuda_matrices import Kind
    from .cuda_model import Launch

_DTYPES: dict[Kind, type] = {"f32": np.float32, "bf16": np.uint16}
_LOGITS_ROWS = 256
"""Rows of logits that are held at once; more are computed in turns, since 4,096 rows of 128k logits
would take 2 GiB."""


def make_executor(
    program: Program,
    config: EngineConfig,
    device: Device,
    num_blocks: int,
    load_weights: Callable[[WeightReceiver, Path | None], None],
) -> CudaExecutor:
    """Reserve all memory on the device and load the weights.

    Raises:
        RequestError: A setting is for the CPU only.
        OutOfMemoryError: The device refuses the memory.
        ModelError: A weight is missing or does not fit the program.
        UnsupportedModelError: There is no kernel for a part of the model.
    """
    kind: Kind = "f32" if config.precision == "exact" else "bf16"
    if config.kv_cache_dtype not in ("auto", kind):
        raise RequestError(
            f'kv_cache_dtype="{config.kv_cache_dtype}" is for the CPU; in '
            f'precision="{config.precision}" the CUDA kernels have {kind} keys and values',
            field="kv_cache_dtype",
            hint="leave it out",
        )
    if config.packed_cache is not None:
        raise RequestError('packed_cache is for device="cpu"', field="packed_cache")
    executor = CudaExecutor(
        program,
        device,
        kind=kind,
        num_blocks=num_blocks,
        max_num_batched_tokens=config.max_num_batched_tokens,
    )
    try:
        load_weights(executor.weights, None)
        executor.seal()
    except BaseException:
        executor.close()
        raise
    return executor


class CudaExecutor:
    """Replays one program on a device: give ``weights`` every weight, ``seal``, ``run`` batches.

    Args:
        program: The forward pass.
        device: Closed with the executor.
        kind: Of activations and KV cache.
        num_blocks: KV blocks of each group.
        max_num_batched_tokens: Rows of a step at most.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        *,
        kind: Kind,
        num_blocks: int,
        max_num_batched_tokens: int,
    ) -> None:
        self._program = program
        self._device = device
        self._kind = kind
        self._max_rows = max_num_batched_tokens
        self._abort = threading.Event()
        self._weights = DeviceWeights(device, program, kind)
        self._kv = {
            (number, layer): (
                self._cache(num_blocks, group.num_kv_heads, group.k_head_dim),
                self._cache(num_blocks, group.num_kv_heads, group.v_head_dim),
            )
            for number, group in enumerate(program.kv_groups)
            for layer in range(group.num_layers)
        }
        self._inputs: InputBuffer | None = None
        self._token_launches: list[Launch] = []
        self._sampled_launches: list[Launch] = []
        self._logits: DeviceArray = None
        self._drawn: DeviceArray = None

    def _cache(self, num_blocks: int, num_kv_heads: int, head_dim: int) -> DeviceArray:
        shape = (num_blocks, num_kv_heads, BLOCK_SIZE, head_dim)
        return self._device.alloc(shape, _DTYPES[self._kind], "KV cache")

    # Loading

    @property
    def weights(self) -> DeviceWeights:
        """Where the weights go before ``seal``."""
        return self._weights

    def seal(self) -> None:
        """All weights are there: allocate the buffers and plan the launches.

        Raises:
            ModelFormatError: A weight is missing.
            UnsupportedModelError: There is no kernel for a part of the model.
            OutOfMemoryError: The device refuses the memory.
        """
        missing = self._weights.missing()
        if missing:
            raise ModelFormatError(f"weights are missing: {', '.join(missing)}")
        ops, device = self._program.ops, self._device
        logits = next(str(op["out"]) for kind, op in ops if kind == "lm_head")
        sampled_rows = min(self._max_rows, _LOGITS_ROWS)
        buffers: dict[str, DeviceArray] = {}
        for name, (rows, width) in self._program.buffers.items():
            shape = (self._max_rows if rows == "tokens" else sampled_rows, width)
            dtype = np.float32 if name == logits else _DTYPES[self._kind]
            buffers[name] = device.alloc(shape, dtype, f"buffer {name}")
        model = DeviceModel(
            device=device,
            program=self._program,
            kind=self._kind,
            buffers=buffers,
            weights=self._weights,
            kv=self._kv,
            partials=Partials(device),
        )
        first = next(place for place, (kind, _) in enumerate(ops) if kind == "gather_rows")
        self._token_launches = plan_launches(model, ops[:first])
        self._sampled_launches = plan_launches(model, ops[first:])
        self._logits = buffers[logits]
        self._drawn = device.alloc((2, sampled_rows), np.int32, "drawn tokens")
        windows = [group.window for group in self._program.kv_groups]
        self._inputs = InputBuffer(device, windows, model.attended)

    # Steps

    def run(self, batch: Batch) -> StepOutput | None:
        """Compute one step; ``None`` if ``abort`` was called: nothing counts as computed.

        Raises:
            ExecutorError: The device failed.
            OutOfMemoryError: Memory for the step's inputs is missing.
            ClosedError: The executor is closed.
        """
        if self._inputs is None:
            raise ClosedError("the executor is closed")
        step = self._inputs.stage(batch)
        self._copy_blocks(step)
        for launch in self._token_launches:
            if self._abort.is_set():
                self._abort.clear()
                return None
            launch(step, step.num_tokens)
        return self._sample(batch, step)

    def _copy_blocks(self, step: StepInputs) -> None:
        for (number, _), caches in self._kv.items():
            inputs = step.groups[number]
            if inputs.num_copies:
                words = [cache.reshape(-1).view(np.uint32) for cache in caches]
                sizes = [np.int32(cache[0].nbytes // 4) for cache in caches]
                self._device.launch(
                    "copy_blocks_u32",
                    (inputs.num_copies,),
                    256,
                    (*words, inputs.block_copies, *sizes),
                )

    def _sample(self, batch: Batch, step: StepInputs) -> StepOutput:
        """Draw on the device where only the largest logit is asked for, else on the host."""
        if not step.num_sampled:
            return StepOutput(np.empty(0, np.int32))
        is_argmax = bool(batch.sampled.is_argmax.all())
        parts = []
        for start in range(0, step.num_sampled, self._logits.shape[0]):
            rows = min(step.num_sampled - start, self._logits.shape[0])
            part = step.from_sampled_row(start)
            for launch in self._sampled_launches:
                launch(part, rows)
            logits = self._logits[:rows]
            parts.append(self._argmax(rows) if is_argmax else self._device.download(logits))
        if not is_argmax:
            return sample_rows(batch, np.concatenate(parts))
        ids, failed = np.concatenate(parts, axis=1)
        return StepOutput(np.ascontiguousarray(ids), failed=failed.astype(bool))

    def _argmax(self, rows: int) -> NDArray[np.int32]:
        """Token ids and whether they failed, ``[2, rows]``."""
        ids, failed = self._drawn[0], self._drawn[1]
        vocab_size = np.int32(self._logits.shape[1])
        self._device.launch("argmax_f32", (rows,), 1024, (ids, failed, self._logits, vocab_size))
        drawn: NDArray[np.int32] = self._device.download(self._drawn)
        return drawn[:, :rows]

    # What the engine asks

    def abort(self) -> None:
        """End the running step early, from another thread."""
        self._abort.set()

    def info(self) -> dict[str, Any]:
        """Describe the device and what is in use."""
        return {
            "device": self._device.name,
            "weight_bytes": self._weights.num_bytes,
            "kv_cache_bytes": sum(array.nbytes for pair in self._kv.values() for array in pair),
        }

    def residency(self) -> dict[str, Any]:
        """Nothing to say: device memory is not paged."""
        return {}

    def close(self) -> None:
        """Give back all memory of the device."""
        self._weights = DeviceWeights(self._device, self._program, self._kind)
        self._kv = {}
        self._token_launches, self._sampled_launches = [], []
        self._inputs = self._drawn = self._logits = None
        self._device.close()
