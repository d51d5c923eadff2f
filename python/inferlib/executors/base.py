"""What the engine needs of an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .._core import Batch, StepOutput


class Executor(Protocol):
    """Runs the program of one model for one batch after another; one call at a time."""

    def run(self, batch: Batch) -> StepOutput | None:
        """Compute one step; ``None`` if ``abort`` was called: nothing counts as computed.

        Raises:
            ExecutorError: The device failed.
            OutOfMemoryError: Memory for the step's buffers is missing.
        """

    def abort(self) -> None:
        """End the running step early, from another thread; its ``run`` then gives ``None``."""

    def info(self) -> dict[str, Any]:
        """Describe the device and what is in use; nothing that changes while it lives.

        ``rows_per_pass``, if it is there, is how many rows a step carries at about the cost of one.
        """

    def residency(self) -> dict[str, Any]:
        """How the weights lie in memory now; may cost a millisecond."""

    def close(self) -> None:
        """Give weights, KV cache and threads back; nobody is in ``run``."""
