"""The adapters of one model: names that callers use, numbers that the executor knows them by."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from .errors import RequestError
from .validation import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter that is loaded.

    Attributes:
        name: What requests call it.
        number: What the executor and the scheduler call it; never used again, since cached keys
            and values belong to it.
        fingerprint: A hash of its files.
    """

    name: str
    number: int
    fingerprint: str


@dataclass(slots=True)
class AdapterTable:
    """Adapters by name; any thread may ask."""

    _adapters: dict[str, Adapter] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last: int = 0

    def new_number(self) -> int:
        """A number that was never used before."""
        with self._lock:
            self._last += 1
            return self._last

    def add(self, adapter: Adapter) -> None:
        """Make an adapter known.

        Raises:
            RequestError: There is one of that name.
        """
        with self._lock:
            if adapter.name in self._adapters:
                raise RequestError(
                    f"there is an adapter {shown(adapter.name)} already",
                    field="name",
                    hint="unload_adapter(name) first, or give another name",
                )
            self._adapters[adapter.name] = adapter

    def remove(self, name: str) -> None:
        """Forget an adapter that is there."""
        with self._lock:
            del self._adapters[name]

    def find(self, name: object) -> Adapter:
        """Return the adapter of that name.

        Raises:
            RequestError: There is none.
        """
        with self._lock:
            if isinstance(name, str) and name in self._adapters:
                return self._adapters[name]
            known = ", ".join(map(repr, self._adapters)) or "none"
        raise RequestError(
            f"there is no adapter {shown(name)}",
            field="adapter",
            hint=f"load_adapter(path) loads one; loaded are: {known}",
        )

    def by_fingerprint(self, fingerprint: str) -> Adapter | None:
        """Return an adapter with the same files, if one is loaded."""
        with self._lock:
            same = (each for each in self._adapters.values() if each.fingerprint == fingerprint)
            return next(same, None)

    def names(self) -> list[str]:
        """Names, in the order in which they were loaded."""
        with self._lock:
            return list(self._adapters)
