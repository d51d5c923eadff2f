"""What a model's numbers depend on: weights, precision, types, arithmetic; by content, not by name.

Two models of equal origin give equal results bit for bit. The weights are hashed when somebody
asks, once, and never while a model is loaded.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ARITHMETIC_VERSION = 1
"""Raised whenever the same weights and tokens give other bits than before."""

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where results come from.

    Attributes:
        model: For people.
        device: ``"cpu"``, or a GPU's name. All CPUs give the same bits.
        tier: The kernels in use, for people; results do not depend on it.
        precision: Numerics of the weights.
        kv_cache_dtype: What keys and values are stored as.
        hash_weights: Hashes what the model was loaded from.
        adapter: A hash of the adapter's files; ``None`` is the model alone.
    """

    model: str
    device: str
    tier: str | None
    precision: str
    kv_cache_dtype: str
    hash_weights: Callable[[], str]
    adapter: str | None = None
    _known: list[str] = field(default_factory=list, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def arithmetic(self) -> str:
        """Kernels of one name give one result."""
        return f"{self.device}-{ARITHMETIC_VERSION}"

    @property
    def weights(self) -> str:
        """A hash of weights and architecture; takes a second per gigabyte the first time.

        Raises:
            ModelError: The files were changed or removed since the model was loaded.
        """
        with self._lock:
            if not self._known:
                self._known.append(self.hash_weights())
            return self._known[0]

    def with_adapter(self, fingerprint: str) -> Origin:
        """Return the same with an adapter; the weights are hashed once for both."""
        return replace(self, adapter=fingerprint)

    def __reduce__(self) -> tuple[Callable[..., Origin], tuple[object, ...]]:
        """Pickle what is known: files may be others where the copy is read."""
        names = (self.model, self.device, self.tier, self.precision, self.kv_cache_dtype)
        return _copy_of, (*names, self.adapter, list(self._known))

    def fingerprint(self) -> dict[str, str]:
        """Return all that results depend on.

        Raises:
            ModelError: The files were changed or removed since the model was loaded.
        """
        return {
            "weights": self.weights,
            "precision": self.precision,
            "kv_cache_dtype": self.kv_cache_dtype,
            "arithmetic": self.arithmetic,
        }


def _copy_of(  # the fields in order, for pickle
    model: str,
    device: str,
    tier: str | None,
    precision: str,
    kv_cache_dtype: str,
    adapter: str | None,
    known: list[str],
) -> Origin:
    origin = Origin(
        model=model,
        device=device,
        tier=tier,
        precision=precision,
        kv_cache_dtype=kv_cache_dtype,
        hash_weights=_not_hashed,
        adapter=adapter,
    )
    origin._known.extend(known)  # noqa: SLF001  # a copy of one of these
    return origin


def _not_hashed() -> str:
    raise ModelError(
        "this completion was copied before the weights of its model were hashed",
        hint="read its receipt before pickling it",
    )


def hash_files(paths: Iterable[str], description: str) -> Callable[[], str]:
    """Return what hashes these files as they are now, later, together with a description.

    Args:
        paths: Of a checkpoint's weights.
        description: What they mean.
    """
    stamps = FileStamps(paths)

    def hash_weights() -> str:
        digest = hashlib.blake2b(description.encode(), digest_size=16)
        for path in stamps.paths:
            try:
                _hash_file(digest, Path(path))
            except OSError as error:
                raise _unreadable(path, error) from error
            stamps.check_one(path)
        return digest.hexdigest()

    return hash_weights


class FileStamps:
    """Sizes, times and numbers of files as they are now; whether that is still so, later.

    Args:
        paths: Of a checkpoint's weights.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._stamps = {path: _stamp(Path(path)) for path in paths}

    @property
    def paths(self) -> Iterable[str]:
        """As they were given."""
        return self._stamps

    def check(self) -> None:
        """Refuse to go on if a file is another now.

        Raises:
            ModelError: It was changed or removed.
        """
        for path in self._stamps:
            self.check_one(path)

    def check_one(self, path: str) -> None:
        """``check`` of one of them."""
        try:
            unchanged = _stamp(Path(path)) == self._stamps[path]
        except OSError as error:
            raise _unreadable(path, error) from error
        if not unchanged:
            raise ModelError(
                f"{path} was changed after the model was loaded",
                path=path,
                hint="load it again; what is in memory can no longer be identified",
            )


def _unreadable(path: str, error: OSError) -> ModelError:
    return ModelError(f"the weights cannot be read again: {error}", path=path)


def _hash_file(digest: hashlib.blake2b, path: Path) -> None:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        digest.update(file.tell().to_bytes(8, "little"))


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
