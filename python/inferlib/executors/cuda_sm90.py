"""The kernels that only sm_90a has: which files they are in, and how they are launched.

Their sums are in the order of all others (``cuda/README.md``), but inside of one instruction a
warpgroup's product may round otherwise than a warp's. So a device and a weight have one family for
every number of rows: which one is decided when a model is loaded (``cuda_proofs.py``), never by the
number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .tensor_maps import TensorMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..devices import Device, DeviceArray

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


def linear_launch(
    device: Device,
    kinds: str,
    tile: LinearTile,
    arrays: tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray | None],
    out_stride: int,
) -> Callable[[int], None]:
    """``out = x @ weight.T + bias`` for a number of rows, a multiple of 8 columns each.

    Args:
        device: Where everything is.
        kinds: Of activations and outputs: ``"bf16_f32"``.
        tile: Of a thread block.
        arrays: Outputs from their first element on; ``weight``, ``[n, k]``; ``x``, ``[rows, k]``,
            as many rows as there may be; ``bias``, ``[n]``.
        out_stride: Elements from one row of the outputs to the next.
    """
    out, weight, x, bias = arrays
    n, k = int(weight.shape[0]), int(weight.shape[1])
    kernel, across = f"linear_sm90_{kinds}_{tile.rows}", -(-n // tile.outputs)
    described = (
        out,
        TensorMap(array=weight, shape=(n, k), box=(tile.outputs, 64)),
        TensorMap(array=x, shape=(int(x.shape[0]), k), box=(tile.rows, 64)),
        bias,
    )
    sizes = (np.int32(n), np.int32(k), np.int32(out_stride))
    return lambda rows: device.launch(
        kernel,
        (across, -(-rows // tile.rows)),
        tile.threads,
        (*described, np.int32(rows), *sizes),
        shared_bytes=tile.shared_bytes,
    )


def linear_tile(rows: int) -> LinearTile:
    """The tile for a number of rows: it changes no bit of them."""
    return next((tile for tile in LINEAR_TILES if rows <= tile.rows), LINEAR_TILES[-1])


ATTENTION_HEAD_DIMS = (64, 128, 256)
"""Head sizes that ``attention_prefill_sm90`` is compiled for."""
ATTENTION_THREADS = 160
"""Of ``attention_prefill_sm90``: 64 rows, and the warp that loads."""


def attention_shared_bytes(head_dim: int) -> int:
    """Dynamic shared memory of ``attention_prefill_sm90``: queries, ring and folded outputs."""
    return (128 + 2 * 256 + 256) * head_dim
