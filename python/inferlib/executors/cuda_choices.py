"""Which of several kernels with the same bits is the quickest: measured once, kept in a file.

Only kernels that give the same bits may be candidates, so a choice changes time and nothing else:
it may differ from run to run, and may depend on the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING

from ..errors import ExecutorError
from .kernels import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ..devices import Device

_logger = logging.getLogger(f"{(__package__ or '').rpartition('.')[0]}.cuda")

_LAUNCHES, _ROUNDS = 10, 3


class KernelChoices:
    """Measures candidates on a device, or remembers what was measured on one like it.

    Args:
        device: If it has no ``cache_folder``, nothing is measured: the first candidate is taken.
        clock: Seconds.
    """

    def __init__(self, device: Device, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._file: Path | None = None
        self._chosen: dict[str, str] = {}
        self._is_changed = False
        if device.cache_folder is not None:
            # The folder is that of these very kernel sources.
            name = hashlib.sha256(device.name.encode()).hexdigest()[:16]
            self._file = device.cache_folder / f"choices-{name}.json"
            self._chosen = _read(self._file)

    def choose(self, key: str, candidates: Mapping[str, Callable[[], None]]) -> str:
        """The name of the quickest candidate.

        Args:
            key: What is computed: kernel, shape and rows.
            candidates: Name → a launch, which may overwrite buffers. The first one is taken where
                nothing is measured.

        Raises:
            ExecutorError: A candidate cannot be launched.
        """
        if self._file is None:
            return next(iter(candidates))
        if self._chosen.get(key) not in candidates:
            seconds = {name: self._seconds(launch) for name, launch in candidates.items()}
            self._chosen[key] = min(seconds, key=lambda name: seconds[name])
            self._is_changed = True
        return self._chosen[key]

    def _seconds(self, launch: Callable[[], None]) -> float:
        """The best of a few runs, after one that loads the kernel."""
        launch()
        best = float("inf")
        for _ in range(_ROUNDS):
            self._device.synchronize()
            start = self._clock()
            for _ in range(_LAUNCHES):
                launch()
            self._device.synchronize()
            best = min(best, self._clock() - start)
        return best

    def save(self) -> None:
        """Keep what was measured, beside what others have measured meanwhile."""
        if self._file is None or not self._is_changed:
            return
        try:
            content = json.dumps(_read(self._file) | self._chosen, indent=1, sort_keys=True)
            write_atomically(self._file, content.encode())
            self._is_changed = False
        except ExecutorError as error:
            _logger.warning("what was measured is not kept: %s", error)


def _read(file: Path) -> dict[str, str]:
    """What a file holds; nothing if it is missing or damaged, since it can be measured again."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _logger.warning("%s is damaged and is measured again: %s", file, error)
        return {}
    if not isinstance(found, dict):
        _logger.warning("%s is damaged and is measured again", file)
        return {}
    return {key: name for key, name in found.items() if isinstance(name, str)}
