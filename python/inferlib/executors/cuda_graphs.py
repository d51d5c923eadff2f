"""Graphs of decode steps: what a step launches, recorded once per shape and started as one.

A graph holds the addresses of buffers that live as long as the executor, and a driver's record of
each launch: about 1 KiB per kernel, so 0.3 MiB for a model of 32 layers, and 64 of them 20 MiB.
"""

from __future__ import annotations

import collections
import logging
from typing import TYPE_CHECKING

from ..errors import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ..devices import Device, Graph

_logger = logging.getLogger(f"{(__package__ or '').rpartition('.')[0]}.cuda")

MAX_GRAPHS = 64
"""Those used last are kept."""


class GraphCache:
    """Runs launches: as they are at first, from a graph when their key comes again.

    The first time loads the kernels, which a recording may not; and a shape that comes once is not
    worth a graph.

    Args:
        device: Records and replays.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._graphs: collections.OrderedDict[Hashable, Graph | None] = collections.OrderedDict()
        self._is_refused = False

    def __len__(self) -> int:
        return sum(graph is not None for graph in self._graphs.values())

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        """Do what ``launch`` does, which is the same for the same key.

        Raises:
            ExecutorError: A kernel cannot be started.
        """
        if self._is_refused:
            launch()
            return
        is_known = key in self._graphs
        graph = self._graphs.pop(key, None)
        if graph is None and is_known:
            graph = self._record(launch)
        if graph is None:
            launch()
        else:
            graph.launch()
        self._graphs[key] = graph
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)

    def _record(self, launch: Callable[[], None]) -> Graph | None:
        try:
            return self._device.graph(launch)
        except ExecutorError as error:
            self._is_refused = True
            _logger.warning(
                "%s records no graphs, so each kernel is launched on its own, with the same "
                "results: %s",
                self._device.name,
                error,
            )
            return None

    def clear(self) -> None:
        """Forget all graphs."""
        self._graphs.clear()
