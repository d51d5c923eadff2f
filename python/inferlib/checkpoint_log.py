"""The file that lets a long run go on where it ended: a line of JSON per result, appended.

The first line says what the results depend on. A line is written by one call and counts only with
its line break, so a process that dies in the middle leaves a torn last line, which the next run
takes off again. In memory is where each result lies, not what it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .atomic import move
from .errors import CheckpointError, CheckpointMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 1
_PIECE_BYTES = 1 << 20
# Not a function of Python's: an interrupt at its end would lose the open file.
_OPEN = partial(cast("Callable[..., BinaryIO]", open), mode="a+b", buffering=0)
# As `put` begins a line; the rest of it is read when somebody wants it.
_BEGINNING = re.compile(rb'\{"index":(\d{1,18}),"key":"([0-9a-f]{1,64})",.*\}\n', re.DOTALL)


class _Place(NamedTuple):
    """Where a result lies: its line, from 1, and its bytes."""

    line: int
    start: int
    length: int
    key: str


class CheckpointLog:
    """Results of one run, by the index of their item.

    Args:
        path: Made if it does not exist; its folder must.
        fingerprint: What results depend on: JSON-like values by name.

    Raises:
        CheckpointError: The file cannot be read or written, is none of ours, is damaged, or another
            run has it open.
        CheckpointMismatchError: It belongs to a run with other options or another model.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: Mapping[str, Any]) -> None:
        self.path: str = os.fspath(path)
        self._places: dict[int, _Place] = {}
        self._files: list[BinaryIO] = []  # one, by a call that no interrupt can split
        self._end = 0
        header = _line({"inferlib_checkpoint": FORMAT_VERSION, **fingerprint})
        try:
            move(self._files, _OPEN, self.path)
        except (OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"it cannot be opened: {error}", path=self.path) from error
        try:
            self._check_is_file()
            self._lock()
            self._read(json.loads(header))
            if self._end == 0:
                self._append(header)
        except OSError as error:
            self.close()
            raise CheckpointError(f"it cannot be read: {error}", path=self.path) from error
        except BaseException:
            self.close()
            raise

    @property
    def _file(self) -> BinaryIO:
        return self._files[0]

    def __len__(self) -> int:
        return len(self._places)

    def get(self, index: int, key: str) -> dict[str, Any] | None:
        """Return the result of an item; ``None`` if there is none yet.

        Args:
            index: The item's place among all items, from 0.
            key: A hash of the item.

        Raises:
            CheckpointMismatchError: Another item stood at this place.
            CheckpointError: The file was changed meanwhile.
        """
        place = self._places.get(index)
        if place is None:
            return None
        if place.key != key:
            raise CheckpointMismatchError(
                f"item {index} is not the one that it was when the file was written",
                path=self.path,
                field=f"item {index}",
                expected=key,
                found=place.key,
                hint="give the same items in the same order, or another file",
            )
        os.lseek(self._file.fileno(), place.start, os.SEEK_SET)
        return self._parse(self._file.read(place.length), place.line)

    def put(self, index: int, key: str, result: Mapping[str, Any]) -> None:
        """Append the result of an item.

        Raises:
            CheckpointError: It cannot be written, for want of space, for one.
        """
        line = _line({"index": index, "key": key, **result})
        start = self._end
        try:
            self._append(line)
        except OSError as error:
            raise CheckpointError(f"it cannot be written: {error}", path=self.path) from error
        self._places[index] = _Place(len(self._places) + 2, start, len(line), key)

    def close(self) -> None:
        """Bring everything to the disk and give the file back; may be called again."""
        for file in self._files:
            if not file.closed:
                with contextlib.suppress(OSError):  # a file system that cannot
                    os.fsync(file.fileno())
                file.close()

    def __del__(self) -> None:
        """Give the file back."""
        for file in getattr(self, "_files", ()):
            file.close()

    def _check_is_file(self) -> None:
        """Refuse devices and pipes: reading one may never end."""
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise CheckpointError("it is no file", path=self.path)

    def _lock(self) -> None:
        if sys.platform == "win32":
            return  # two runs on one file are the caller's business there
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                "another run is writing to it", path=self.path, hint="wait for it, or use two files"
            ) from None
        except OSError:
            pass  # a file system without locks

    def _append(self, line: bytes) -> None:
        written = self._file.write(line)
        if written != len(line):  # a full disk: what was written is torn, and is taken off again
            self._file.truncate(self._end)
            raise OSError(f"only {written} of {len(line)} bytes could be written")
        self._end += len(line)

    def _read(self, header: Mapping[str, Any]) -> None:
        """Note where results lie; take a torn last line off."""
        number = 0
        for number, line in enumerate(self._lines(), 1):
            if not line.endswith(b"\n"):
                break
            if number == 1:
                self._check_header(self._parse(line, 1), header)
            else:
                self._note(line, number)
            self._end += len(line)
        if number == 1 and self._end == 0 and not header_begins(Path(self.path)):
            raise CheckpointError("it is no checkpoint of inferlib's", path=self.path, line=1)
        self._file.truncate(self._end)

    def _lines(self) -> Iterator[bytes]:
        """All lines; the last one may have no line break."""
        rest = b""
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in whole)
        if rest:
            yield rest

    def _note(self, line: bytes, number: int) -> None:
        beginning = _BEGINNING.fullmatch(line)
        if beginning is None:
            raise CheckpointError("it is damaged", path=self.path, line=number)
        key = beginning[2].decode()
        self._places[int(beginning[1])] = _Place(number, self._end, len(line), key)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"it is damaged: {error}", path=self.path, line=number) from error
        if not isinstance(values, dict):
            raise CheckpointError("it holds something else", path=self.path, line=number)
        return values

    def _check_header(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        if "inferlib_checkpoint" not in found:
            raise CheckpointError("it is no checkpoint of inferlib's", path=self.path, line=1)
        difference = _first_difference("", expected, found)
        if difference is not None:
            field, wanted, stored = difference
            raise CheckpointMismatchError(
                f"it belongs to a run with another {field}: {stored!r:.80}, not {wanted!r:.80}",
                path=self.path,
                field=field,
                expected=wanted,
                found=stored,
                hint="go on with the same options and model, or give another file",
            )


def header_begins(path: Path) -> bool:
    """Whether a file without a whole line may be a header that was torn."""
    with path.open("rb") as file:
        beginning = file.read(32)
    return b'{"inferlib_checkpoint"'.startswith(beginning[:22])


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _first_difference(name: str, expected: object, found: object) -> tuple[str, Any, Any] | None:
    """The dotted name of what differs, and both values."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in {**expected, **found}:
            inner = f"{name}.{key}" if name else str(key)
            difference = _first_difference(inner, expected.get(key), found.get(key))
            if difference is not None:
                return difference
        return None
    return None if expected == found else (name, expected, found)
