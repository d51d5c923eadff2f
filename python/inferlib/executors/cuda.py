"""The CUDA executor: weights, KV cache and buffers on a device, a program as launches of kernels.

``precision="exact"`` has float32 activations and KV cache. The others have bf16 ones (f16 where a
GPU knows no bf16), and weights as they are stored (int4 and int8 groups, 16-bit floats); sums are
float32 in all kernels. Everything is allocated before the first step.

Decode steps are graphs (``cuda_graphs``). Where the next decode step can be foreseen it is launched
at once, from the ids that this step leaves on the device: the host reads the ids, updates the
scheduler and the texts while the device works on. If the scheduler then asks for what was foreseen,
or for some of its rows (others ended), the result is there; if not, it is thrown away. What was
foreseen has written keys and values only behind the end of sequences, where nobody reads. Whoever
writes blocks otherwise than by a step must first drop what was foreseen: it read them as they were.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ClosedError, ExecutorError, ModelFormatError, RequestError
from .cuda_draws import kind_of_draws, rows_of_host
from .cuda_files import files_of_program
from .cuda_graphs import GraphCache
from .cuda_launches import ProgramLaunches, kv_cache
from .cuda_layout import bucket_of
from .cuda_matrices import DeviceWeights
from .cuda_memory import StepLimits, kind_for
from .cuda_proofs import linear_is_proven
from .cuda_step import HostStep
from .cuda_supported import refuse_unsupported

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from .._core import Batch, Program, StepOutput
    from ..config import EngineConfig
    from ..devices import Device, Download
    from .base import WeightReceiver
    from .cuda_matrices import Kind

_MAX_PATIENCE = 32
"""Steps to wait at most before the next one is foreseen again, where the last ones were not asked
for."""


def make_executor(
    program: Program,
    config: EngineConfig,
    device: Device,
    num_blocks: int,
    load_weights: Callable[[WeightReceiver, Path | None], None],
    *,
    max_model_len: int,
) -> CudaExecutor:
    """Reserve all memory on the device and load the weights. A failure closes the device.

    Raises:
        RequestError: A setting is for the CPU only.
        OutOfMemoryError: The device refuses the memory.
        ModelError: A weight is missing or does not fit the program.
        UnsupportedModelError: There is no kernel for a part of the model.
    """
    try:
        kind = kind_for(config, device)
        _refuse_what_is_for_the_cpu(config, kind)
        refuse_unsupported(program)
        limits = StepLimits.of(config, max_model_len)
        device.prepare(files_of_program(program, kind, device.architecture))
        executor = CudaExecutor(program, device, kind=kind, num_blocks=num_blocks, limits=limits)
        load_weights(executor.weights, None)
        executor.seal()
    except BaseException:
        device.close()
        raise
    return executor


def _refuse_what_is_for_the_cpu(config: EngineConfig, kind: Kind) -> None:
    if config.kv_cache_dtype not in ("auto", kind):
        raise RequestError(
            f'kv_cache_dtype="{config.kv_cache_dtype}" is for the CPU; in '
            f'precision="{config.precision}" the CUDA kernels have {kind} keys and values',
            field="kv_cache_dtype",
            hint="leave it out",
        )
    if config.packed_cache is not None:
        raise RequestError('packed_cache is for device="cpu"', field="packed_cache")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _RunningStep:
    """A step that was launched.

    Attributes:
        step: What it computes.
        drawn: Its ids and whether they failed, on their way to the host; ``None`` if it draws none.
        host_rows: Rows that the host draws.
        logits: Of those.
    """

    step: HostStep
    drawn: Download | None
    host_rows: NDArray[np.int32]
    logits: NDArray[np.float32]

    def wait(self) -> NDArray[np.int32]:
        """Ids and failures, ``[2, num_sampled]``."""
        if self.drawn is None:
            return np.empty((2, 0), np.int32)
        drawn = self.drawn.wait().reshape(2, -1)
        return drawn[:, : self.step.num_sampled]


class CudaExecutor:
    """Replays one program on a device: give ``weights`` every weight, ``seal``, ``run`` batches.

    Args:
        program: The forward pass.
        device: Closed with the executor.
        kind: Of activations and KV cache.
        num_blocks: KV blocks of each group.
        limits: What no step exceeds.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        *,
        kind: Kind,
        num_blocks: int,
        limits: StepLimits,
    ) -> None:
        self._program = program
        self._device = device
        self._kind: Kind = kind
        self._limits = limits
        self._num_blocks = num_blocks
        self._abort = threading.Event()
        # First of all: how the weights lie depends on it, and its memory is used again.
        has_rows = linear_is_proven(device, kind)
        self._weights = DeviceWeights(device, program, kind, has_rows=has_rows)
        self._kv = kv_cache(device, program, kind, num_blocks)
        self._graphs = GraphCache(device)
        self._launches: ProgramLaunches | None = None
        self._ahead: tuple[_RunningStep, NDArray[np.int32]] | None = None
        self._patience, self._waiting = 0, 0
        self._num_used, self._num_discarded = 0, 0

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
        self._launches = ProgramLaunches(
            self._device,
            self._program,
            self._kind,
            self._limits,
            weights=self._weights,
            kv=self._kv,
            scratch_block=self._num_blocks,
        )

    # Steps

    def run(self, batch: Batch) -> StepOutput | None:
        """Compute one step; ``None`` if ``abort`` was called: nothing counts as computed.

        Raises:
            ExecutorError: The device failed.
            ClosedError: The executor is closed.
        """
        if self._launches is None:
            raise ClosedError("the executor is closed")
        wanted = HostStep.of(batch)
        running, rows = self._foreseen(wanted)
        if running is None:
            running = self._start(self._launches, wanted)
            rows = np.arange(wanted.num_sampled)
        if running is None:
            return None
        ahead = self._look_ahead(self._launches, running, rows)
        drawn = running.wait()
        if ahead is not None:
            self._ahead = ahead, drawn[0]
        if self._is_aborted():
            return None
        return self._launches.draws.output(batch, drawn[:, rows], running.host_rows, running.logits)

    def _foreseen(self, wanted: HostStep) -> tuple[_RunningStep | None, NDArray[np.intp]]:
        """The step that was launched ahead, if it computes what is wanted, and in which rows."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None, np.empty(0, np.intp)
        running, token_ids = ahead
        rows = running.step.find_rows(wanted, token_ids)
        if rows is None:
            self._num_discarded += 1
            self._patience = min(2 * self._patience + 1, _MAX_PATIENCE)
            self._waiting = self._patience
            return None, np.empty(0, np.intp)
        self._num_used += 1
        self._patience = 0
        return running, rows

    def _look_ahead(
        self, launches: ProgramLaunches, running: _RunningStep, rows: NDArray[np.intp]
    ) -> _RunningStep | None:
        """Launch the step behind one that is running, if it can be foreseen."""
        if self._waiting:
            self._waiting -= 1
            return None
        step = running.step
        if len(rows) != step.num_sampled or (np.diff(rows) != 1).any():
            return None  # the ids on the device are those of other rows, too
        following = step.following(self._limits.model_len)
        return None if following is None else self._start(launches, following)

    def _start(self, launches: ProgramLaunches, step: HostStep) -> _RunningStep | None:
        """Launch a step; ``None`` if ``abort`` was called meanwhile."""
        work = launches.inputs.work(step)
        bucket = bucket_of(step, work, self._limits, launches.max_items)
        inputs = launches.inputs.stage(step, work, bucket)
        draw, host_rows = kind_of_draws(step), rows_of_host(step)
        logits = []
        if bucket is not None:
            if self._is_aborted():
                return None
            self._graphs.run((bucket, draw), lambda: launches.all(inputs, draw))
            logits.append(launches.draws.logits(host_rows, 0, step.num_sampled))
        else:
            launches.copy_blocks(inputs)
            for launch in launches.of_tokens:
                if self._is_aborted():
                    return None
                launch(inputs, inputs.num_tokens)
            for start, end in launches.turns(inputs):
                launches.sample(inputs, draw, start, end)
                logits.append(launches.draws.logits(host_rows, start, end))
        return _RunningStep(
            step=step,
            drawn=self._device.start_download(inputs.drawn) if step.num_sampled else None,
            host_rows=host_rows,
            logits=np.concatenate(logits) if logits else np.empty((0, 0), np.float32),
        )

    def _is_aborted(self) -> bool:
        is_aborted = self._abort.is_set()
        self._abort.clear()
        return is_aborted

    # What the engine asks

    def abort(self) -> None:
        """End the running step early, from another thread."""
        self._abort.set()

    def info(self) -> dict[str, Any]:
        """Describe the device and what is in use."""
        return {
            "device": self._device.name,
            "kv_cache_dtype": self._kind,
            "weight_bytes": self._weights.num_bytes,
            "kv_cache_bytes": sum(array.nbytes for pair in self._kv.values() for array in pair),
        }

    def residency(self) -> dict[str, Any]:
        """How many graphs there are, and what became of the steps that were launched ahead."""
        return {
            "graphs": len(self._graphs),
            "steps_foreseen": self._num_used,
            "steps_discarded": self._num_discarded,
        }

    def close(self) -> None:
        """Give back all memory of the device, when it has done what was launched."""
        with contextlib.suppress(ExecutorError):  # whoever waited for a step was told
            self._device.synchronize()
        self._weights = DeviceWeights(self._device, self._program, self._kind)
        self._kv = {}
        self._graphs.clear()
        self._launches = self._ahead = None
        self._device.close()
