"""From ``device="auto"``, ``"cuda:1"`` … to a device that is open."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

from .devices import Device, gpu_index, registered_device
from .errors import InferlibError

if TYPE_CHECKING:
    from .config import EngineConfig

_logger = logging.getLogger(f"{__package__}.cuda")


def open_device(config: EngineConfig) -> Device | None:
    """The device of the CUDA executor; ``None`` for the CPU's.

    Raises:
        RequestError: CuPy or the GPU that was asked for is missing; ``hint`` says what to do.
    """
    device = config.device
    if isinstance(device, Device):
        return device
    if device == "auto":
        return None if config.packed_cache is not None else _open_automatic()  # it is the CPU's
    registered = registered_device(device)
    if registered is not None:
        return registered()
    index = gpu_index(device)
    if index is None:
        return None
    from .executors.cupy_device import open_gpu  # not for those who stay on the CPU

    return open_gpu(index)


def _open_automatic() -> Device | None:
    """The first GPU if all that it takes is there; what is missing is a line in the log."""
    if importlib.util.find_spec("cupy") is None:
        return None
    from .executors.cupy_device import open_gpu  # the same

    try:
        return open_gpu(0)
    except InferlibError as error:
        _logger.info('device="auto" is the CPU: %s', error)
        return None
