"""Faults to order: what goes wrong in a model's executor, and when.

An executor that is wrapped here is the real one in every step in which no fault is due.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .._core import Batch, StepOutput, Weights
    from ..executors.base import Executor, WeightReceiver

INJECTED = "injected by inferlib.testing"


class Faults:
    """What is to go wrong in the model that it was given to, ordered before or while that runs.

    Each order is for one step (or some): that which comes when ``after`` more steps have passed.
    Any thread may order. One object is for one model.

        >>> from inferlib.testing import Faults, tiny_model
        >>> faults = Faults()
        >>> with tiny_model(faults=faults) as model:
        ...     faults.fail_step()
        ...     try:
        ...         model.generate("x", max_tokens=3)
        ...     except ExecutorError as error:
        ...         print(error)
        ...     len(model.generate("x", max_tokens=3, ignore_eos=True).token_ids)
        injected by inferlib.testing
        3
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: list[tuple[int, Callable[[FaultyExecutor], None]]] = []
        self._loading: tuple[int, Exception] | None = None
        self._is_dead = False
        self._num_steps = 0

    @property
    def num_steps(self) -> int:
        """Steps that the executor was asked for, those that failed included."""
        return self._num_steps

    def clear(self) -> None:
        """Withdraw every order for steps to come."""
        with self._lock:
            self._orders.clear()

    def fail_step(self, error: BaseException | None = None, *, after: int = 0) -> None:
        """Let a step raise: an ``ExecutorError`` unless another is given.

        ``KeyboardInterrupt()`` comes as from Ctrl-C in the middle of the step.
        """
        raised = ExecutorError(INJECTED) if error is None else error

        def act(_executor: FaultyExecutor) -> None:
            raise raised

        self._order(act, after)

    def call_in_step(self, function: Callable[[], object], *, after: int = 0) -> None:
        """Call a function in the middle of a step, in the thread that runs it."""

        def act(_executor: FaultyExecutor) -> None:
            function()

        self._order(act, after)

    def fail_allocation(self, *, after: int = 0) -> None:
        """Let the memory for a step's buffers be refused: ``OutOfMemoryError``."""
        self.fail_step(OutOfMemoryError(INJECTED, required=2**40, available=0), after=after)

    def slow_steps(self, seconds: float, *, steps: int = 1, after: int = 0) -> None:
        """Let steps take this much longer; closing the model ends the wait, as it aborts a step."""

        def act(executor: FaultyExecutor) -> None:
            executor.aborted.wait(seconds)

        for step in range(after, after + steps):
            self._order(act, step)

    def panic(self, *, in_caller: bool = False, after: int = 0) -> None:
        """Let a worker of the CPU's executor panic, or the thread that runs the step.

        Raises:
            ExecutorError: In that step, if the executor is none in Rust.
        """

        def act(executor: FaultyExecutor) -> None:
            plant = getattr(executor.inner, "plant_panic", None)
            if plant is None:
                raise ExecutorError("only the CPU's executor can panic")
            plant(in_caller=in_caller)

        self._order(act, after)

    def kill_device(self, *, after: int = 0) -> None:
        """Let every step from then on fail, as after an illegal access; see ``revive_device``."""

        def act(_executor: FaultyExecutor) -> None:
            self._is_dead = True
            raise ExecutorError("the device is gone", hint=INJECTED)

        self._order(act, after)

    def revive_device(self) -> None:
        """Let steps run again."""
        self._is_dead = False

    def fail_loading(self, error: Exception | None = None, *, after: int = 0) -> None:
        """Let a weight not be loaded, that after ``after`` others: by default for want of memory.

        To be ordered before the model is made.
        """
        default = OutOfMemoryError(INJECTED, required=2**40, available=0)
        self._loading = (after, default if error is None else error)

    # For the models of this package

    def executor(self, inner: Executor) -> FaultyExecutor:
        """Return an executor that fails as ordered, else runs ``inner``."""
        return FaultyExecutor(inner, self)

    def receiver(self, inner: WeightReceiver) -> WeightReceiver:
        """Return a receiver of weights that fails as ordered, else gives them to ``inner``."""
        return inner if self._loading is None else _FaultyReceiver(inner, *self._loading)

    def begin_step(self, executor: FaultyExecutor) -> None:
        """Do what was ordered for the step that begins."""
        with self._lock:
            step = self._num_steps
            self._num_steps += 1
            due = [act for place, act in self._orders if place == step]
            self._orders = [order for order in self._orders if order[0] > step]
        if self._is_dead:
            raise ExecutorError("the device is gone", hint=INJECTED)
        for act in due:
            act(executor)

    def _order(self, act: Callable[[FaultyExecutor], None], after: int) -> None:
        with self._lock:
            self._orders.append((self._num_steps + after, act))


class FaultyExecutor:
    """Runs ``inner``, unless a fault is due; see ``executors.base.Executor``.

    Attributes:
        inner: The real one.
        aborted: Set by ``abort``, until the step that it ends.
    """

    def __init__(self, inner: Executor, faults: Faults) -> None:
        self.inner = inner
        self.aborted: threading.Event = threading.Event()
        self._faults = faults

    def run(self, batch: Batch) -> StepOutput | None:
        """Run a step, or let it fail."""
        self._faults.begin_step(self)
        self.aborted.clear()
        return self.inner.run(batch)

    def abort(self) -> None:
        """End the running step."""
        self.aborted.set()
        self.inner.abort()

    def info(self) -> dict[str, Any]:
        """Describe the real one."""
        return self.inner.info()

    def residency(self) -> dict[str, Any]:
        """As of the real one."""
        return self.inner.residency()

    def close(self) -> None:
        """Close the real one."""
        self.inner.close()


class _FaultyReceiver:
    """Refuses one weight."""

    def __init__(self, inner: WeightReceiver, after: int, error: Exception) -> None:
        self._inner = inner
        self._left = after
        self._error = error

    def load_vector(self, name: str, values: NDArray[np.float32]) -> None:
        self._count()
        self._inner.load_vector(name, values)

    def load_array(self, name: str, values: NDArray[np.float32]) -> None:
        self._count()
        self._inner.load_array(name, values)

    def load_matrices(
        self,
        checkpoint: Weights,
        matrices: list[tuple[str, list[tuple[str, NDArray[np.int32] | None]]]],
        *,
        packed_cache: Path | None = None,
        row_scales: bool = False,
    ) -> tuple[str, str | None]:
        self._count()
        return self._inner.load_matrices(
            checkpoint, matrices, packed_cache=packed_cache, row_scales=row_scales
        )

    def _count(self) -> None:
        if self._left == 0:
            raise self._error
        self._left -= 1
