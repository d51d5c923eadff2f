"""The kernels that only sm_90a has: which files they are in, and how they are launched.

Their sums are in the order of all others (``cuda/README.md``), but inside of one instruction a
warpgroup's product may round otherwise than a warp's. So a device and a weight have one family for
every number of rows; which one is a decision of the executor, never of the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

ONLY_FOR = {"attention_prefill_sm90": "sm_90a", "linear_sm90": "sm_90a"}
"""Files of ``cuda/`` → the one architecture that they are compiled for; all others are for all."""


def architecture_of(file: str, device: str) -> str | None:
    """What to compile a kernel file for, for a device.

    Args:
        file: Its stem.
        device: ``"sm_90"``.

    Returns:
        ``"sm_90a"`` for a file that needs it, ``None`` if the device cannot run the file.
    """
    only = ONLY_FOR.get(file)
    if only is None:
        return device
    return only if only.removesuffix("a") == device.removesuffix("a") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTile:
    """What a thread block of ``linear_sm90`` computes.

    Attributes:
        rows: Of ``x``, the last part of the kernel's name.
        outputs: Rows of the weight.
        stages: Of the ring.
    """

    rows: int
    outputs: int
    stages: int

    @property
    def threads(self) -> int:
        """A warpgroup for 64 outputs, and the warp that loads."""
        return 2 * self.outputs + 32

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory."""
        return self.stages * 128 * (self.outputs + self.rows)


LINEAR_TILES = (
    LinearTile(rows=8, outputs=64, stages=12),
    LinearTile(rows=64, outputs=128, stages=6),
    LinearTile(rows=128, outputs=128, stages=4),
)


def linear_tile(rows: int) -> LinearTile:
    """The tile for a number of rows: it changes no bit of them."""
    return next((tile for tile in LINEAR_TILES if rows <= tile.rows), LINEAR_TILES[-1])


ATTENTION_THREADS = 160
"""Of ``attention_prefill_sm90``: 64 rows, and the warp that loads."""


def attention_shared_bytes(head_dim: int) -> int:
    """Dynamic shared memory of ``attention_prefill_sm90``: queries, ring and folded outputs."""
    return (128 + 2 * 256 + 256) * head_dim
