"""The adapters that an executor was given: none is taken away while a request uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._core import CpuExecutor
from .errors import ExecutorError, RequestError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Mapping

    from .executors.base import Executor
    from .lora_files import AdapterMatrices
    from .request import Request


class LoadedAdapters:
    """Adapters by number; ``AdapterTable`` has their names.

    Args:
        executor: Computes with them.
        requests: Those that have not ended, by id.
        lock: The engine's, which is held while ``requests`` changes.
    """

    def __init__(
        self, executor: Executor, requests: Mapping[int, Request], lock: threading.RLock
    ) -> None:
        self._executor = executor
        self._requests = requests
        self._lock = lock
        self._num_bytes: dict[int, int] = {}

    def load(self, number: int, parts: Iterable[AdapterMatrices]) -> None:
        """Give the executor an adapter, between steps.

        Raises:
            ExecutorError: Not on this device.
        """
        if not isinstance(self._executor, CpuExecutor):
            raise ExecutorError("adapters run on the CPU only", hint='load it with device="cpu"')
        given = [(p.weight, p.first_row, p.a, p.b, p.scale) for p in parts]
        self._executor.load_adapter(number, given)
        with self._lock:
            self._num_bytes[number] = sum(a.nbytes + b.nbytes for _, _, a, b, _ in given)

    def unload(self, number: int) -> None:
        """Take an adapter away.

        Raises:
            RequestError: Requests that use it have not ended.
        """
        with self._lock:
            users = sum(request.adapter == number for request in self._requests.values())
            if users:
                raise RequestError(
                    f"{users} requests that use the adapter have not ended",
                    field="name",
                    hint="wait for them, or cancel them",
                )
            self._num_bytes.pop(number, None)
        if isinstance(self._executor, CpuExecutor):
            self._executor.unload_adapter(number)

    def check(self, request: Request) -> None:
        """Refuse a request whose adapter is not there any more; the lock is held.

        Raises:
            RequestError: It was unloaded.
        """
        if request.adapter and request.adapter not in self._num_bytes:
            raise RequestError("the adapter was unloaded", field="adapter")

    def details(self) -> dict[str, int]:
        """What ``stats`` says of them; the lock is held."""
        return {"adapter_bytes": sum(self._num_bytes.values())} if self._num_bytes else {}
