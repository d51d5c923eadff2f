"""Drawing tokens: on the device what needs only logits and numbers, the rest on the host.

Which of the two draws a row is decided by that row's own request, never by its batch mates. Greedy
rows get the CPU's tokens for the same logits. ``sample_f32`` has the CPU's order of options, its
random numbers and its integer masses, but weighs tokens by the device's approximate ``exp2``: where
a uniform falls within about 2^-22 of a border between two tokens, the device may draw the other
one. So the promise is per kind of device: the same device draws the same tokens, in every batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from .._core import LogitsSampler, StepOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core import Batch
    from ..devices import Device, DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_step import HostStep

DrawKind: TypeAlias = Literal["none", "greedy", "argmax", "sample"]
"""Of all rows of a step: ``"greedy"`` draws each one's largest logit and nobody reads logits;
``"argmax"`` does so for those that the device draws."""


def kind_of_draws(step: HostStep) -> DrawKind:
    """The cheapest kernel that draws all rows which the device draws."""
    draws = step.draws
    if not draws.is_plain.any():
        return "none"
    if not draws.is_argmax[draws.is_plain].all():
        return "sample"
    return "greedy" if draws.is_plain.all() else "argmax"


def rows_of_host(step: HostStep) -> NDArray[np.int32]:
    """Rows of logits that the host draws or scores."""
    return np.flatnonzero(~step.draws.is_plain).astype(np.int32)


class Draws:
    """Draws the rows of steps.

    Args:
        device: Where the logits are.
        logits: ``[rows, vocab_size]``.
    """

    def __init__(self, device: Device, logits: DeviceArray) -> None:
        self._device = device
        self._logits = logits
        self._sampler = LogitsSampler(int(logits.shape[1]))

    def launch(self, inputs: StepInputs, kind: DrawKind, start: int, end: int) -> None:
        """Draw rows ``start`` to ``end``, whose logits are the first ones of the buffer."""
        if kind == "none":
            return
        drawn = (inputs.token_ids[start:end], inputs.failed[start:end], self._logits)
        vocab_size = np.int32(self._logits.shape[1])
        if kind != "sample":
            self._device.launch("argmax_f32", (end - start,), 1024, (*drawn, vocab_size))
        else:
            options = inputs.draws.arrays(start, end)
            self._device.launch("sample_f32", (end - start,), 1024, (*drawn, *options, vocab_size))

    def logits(self, rows: NDArray[np.int32], start: int, end: int) -> NDArray[np.float32]:
        """Logits of those of ``rows`` that are between ``start`` and ``end``, on the host."""
        wanted = rows[(rows >= start) & (rows < end)] - start
        if not len(wanted):
            return np.empty((0, int(self._logits.shape[1])), np.float32)
        first, last = int(wanted[0]), int(wanted[-1])
        logits: NDArray[np.float32] = self._device.download(self._logits[first : last + 1])
        return logits[wanted - first]

    def output(
        self,
        batch: Batch,
        drawn: NDArray[np.int32],
        rows: NDArray[np.int32],
        logits: NDArray[np.float32],
    ) -> StepOutput:
        """What a step gives.

        Args:
            batch: What was asked for.
            drawn: ``[2, num_sampled]``: ids and whether they failed; of no meaning in ``rows``.
            rows: What the host draws or scores.
            logits: Of those rows.
        """
        ids, failed = np.ascontiguousarray(drawn[0]), drawn[1] != 0
        if len(rows):
            return self._sampler.complete(batch, rows, logits, ids, failed)
        return StepOutput(ids, failed=failed)
