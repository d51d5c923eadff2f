"""What the engine needs of an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .._core import Batch, StepOutput, Weights


class ArrayReceiver(Protocol):
    """What takes weights as arrays, each once."""

    def load_vector(self, name: str, values: NDArray[np.float32]) -> None:
        """Give a vector, ``[width]``."""

    def load_array(self, name: str, values: NDArray[np.float32]) -> None:
        """Give a matrix, ``[out_features, in_features]``."""


class WeightReceiver(ArrayReceiver, Protocol):
    """An executor that is being given its weights, each once."""

    def load_matrices(
        self,
        checkpoint: Weights,
        matrices: list[tuple[str, list[tuple[str, NDArray[np.int32] | None]]]],
        *,
        packed_cache: Path | None = None,
        row_scales: bool = False,
    ) -> tuple[str, str | None]:
        """Give all matrices as tensors of a checkpoint that are stacked by rows.

        Args:
            checkpoint: What has the tensors.
            matrices: Canonical names, and of each part the tensor and the order of its rows.
            packed_cache: Folder for what the CPU's executor makes of them.
            row_scales: Whether activations may have one scale per row where weights have.

        Returns:
            Where they came from (``"packed"``, ``"written"`` or ``"opened"``), and what was wrong
            with a file of the packed cache that had to be replaced.
        """


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
