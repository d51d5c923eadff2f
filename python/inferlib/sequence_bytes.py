"""Keys and values of held sequences as bytes, as files of sequences have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._core import CpuExecutor
from .errors import ExecutorError

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    from ._core import HeldSequences
    from .executors.base import Executor

    Bytes: TypeAlias = NDArray[np.uint8]
    ByteArrays: TypeAlias = tuple[Bytes, Bytes, Bytes, Bytes]


@dataclass(frozen=True, slots=True)
class SequenceBytes:
    """Reads and gives the keys and values of held sequences.

    Attributes:
        sequences: Those that are held.
        executor: Has their keys and values.
    """

    sequences: HeldSequences
    executor: Executor

    def export(self, sequence: int) -> list[ByteArrays]:
        """Read a sequence's keys and values; see ``HeldSequences.export``.

        Raises:
            ExecutorError: Not on this device.
        """
        return self.sequences.export(sequence, self._cpu())

    def restore(
        self,
        sequence: int,
        token_ids: NDArray[np.int32],
        num_computed: int,
        groups: list[ByteArrays],
    ) -> None:
        """Give a sequence tokens, keys and values; without room for these, tokens only.

        Raises:
            ExecutorError: Not on this device.
        """
        self.sequences.restore(sequence, token_ids, num_computed, self._cpu(), groups)

    def _cpu(self) -> CpuExecutor:
        if not isinstance(self.executor, CpuExecutor):
            raise ExecutorError(
                "keys and values can be saved and loaded on the CPU only",
                hint="prefill the tokens again",
            )
        return self.executor
