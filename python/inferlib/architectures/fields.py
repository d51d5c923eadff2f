"""Typed reads of a ``config.json`` or of GGUF metadata; an error names the key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST_SIZE = 2**31 - 1


class Fields:
    """Values by key, from one source.

    A key that holds ``null`` counts as absent. Where a method takes several keys, the first that is
    present is read: the versions of a format have renamed some.
    """

    def __init__(self, values: Mapping[str, object], *, source: str) -> None:
        self._values = values
        self._source = source

    @property
    def source(self) -> str:
        """What the values were read from, for messages."""
        return self._source

    @property
    def values(self) -> Mapping[str, object]:
        """As they were read."""
        return self._values

    def with_defaults(self, defaults: Mapping[str, object]) -> Fields:
        """The same values, and those of ``defaults`` for absent keys."""
        return Fields({**defaults, **self._values}, source=self._source)

    def has(self, key: str) -> bool:
        """Whether the key is present and not ``null``."""
        return self._values.get(key) is not None

    def says(self, key: str) -> bool:
        """Whether the key is present, ``null`` or not."""
        return key in self._values

    def size(self, *keys: str, default: int | None = None) -> int:
        """A positive integer; required unless there is a default."""
        found = self.optional_size(*keys)
        if found is not None:
            return found
        if default is None:
            raise self.missing(keys[0])
        return default

    def optional_size(self, *keys: str) -> int | None:
        """A positive integer, or ``None`` if the key is absent."""
        key, value = self._find(keys)
        if value is None:
            return None
        # NumPy's integers too; bool is an int that is no size.
        if not isinstance(value, bool) and isinstance(value, int | np.integer):
            size = int(value)
            if 0 < size <= _LARGEST_SIZE:
                return size
        raise self.invalid(key, "a positive integer", value)

    def number(self, *keys: str, default: float | None = None) -> float:
        """A finite number; required unless there is a default."""
        found = self.optional_number(*keys)
        if found is not None:
            return found
        if default is None:
            raise self.missing(keys[0])
        return default

    def positive(self, *keys: str, default: float | None = None) -> float:
        """A finite number above zero; required unless there is a default."""
        found = self.number(*keys, default=default)
        if found > 0:
            return found
        raise self.invalid(self._find(keys)[0], "a positive number", found)

    def optional_number(self, *keys: str) -> float | None:
        """A finite number, or ``None`` if the key is absent."""
        key, value = self._find(keys)
        if value is None:
            return None
        if not isinstance(value, bool) and isinstance(value, int | float | np.number):
            number = float(value)
            if math.isfinite(number):
                return number
        raise self.invalid(key, "a finite number", value)

    def flag(self, key: str, *, default: bool) -> bool:
        """A truth value."""
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise self.invalid(key, "true or false", value)

    def text(self, *keys: str, default: str | None = None) -> str:
        """A string; required unless there is a default."""
        key, value = self._find(keys)
        if value is None:
            if default is None:
                raise self.missing(keys[0])
            return default
        if isinstance(value, str):
            return value
        raise self.invalid(key, "a string", value)

    def texts(self, key: str) -> list[str]:
        """A list of strings; empty if the key is absent."""
        value = self._values.get(key)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.invalid(key, "a list of strings", value)

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers; required."""
        value = self._values.get(key)
        if value is None:
            raise self.missing(key)
        items: list[object] = value if isinstance(value, list) else [value]
        if all(
            isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item)
            for item in items
        ):
            return [float(item) for item in items]  # type: ignore[arg-type]
        raise self.invalid(key, "a list of finite numbers", value)

    def whole_numbers(self, key: str) -> list[int] | None:
        """A list of integers, or ``None`` if the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, list) and all(
            isinstance(item, int) and not isinstance(item, bool) for item in value
        ):
            return value
        raise self.invalid(key, "a list of integers", value)

    def token_ids(self, key: str) -> list[int]:
        """One token id or a list of them; empty if the key is absent."""
        value = self._values.get(key)
        if value is None:
            return []
        items: list[object] = value if isinstance(value, list) else [value]
        ids = [item for item in items if isinstance(item, int) and 0 <= item <= _LARGEST_SIZE]
        if len(ids) == len(items):
            return ids
        raise self.invalid(key, "a token id or a list of token ids", value)

    def section(self, key: str) -> Fields | None:
        """An object inside this one, or ``None`` if the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, dict):
            return Fields(value, source=f"{key!r} of {self._source}")
        raise self.invalid(key, "an object", value)

    def missing(self, key: str) -> ModelFormatError:
        """The error for a key that has to be there."""
        return ModelFormatError(f"{self._source} has no {key!r}")

    def invalid(self, key: str, expected: str, found: object) -> ModelFormatError:
        """The error for a value that cannot be right."""
        text = repr(found)
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        return ModelFormatError(f"{key!r} of {self._source} must be {expected}, not {shown}")

    def _find(self, keys: tuple[str, ...]) -> tuple[str, object]:
        """The first key that is present, and its value."""
        for key in keys:
            value = self._values.get(key)
            if value is not None:
                return key, value
        return keys[0], None
