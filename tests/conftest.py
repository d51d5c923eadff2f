"""What holds for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG = 500


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Tell where long sequences differ first.

    pytest would write a diff of them, in a time that grows with the square of their length: minutes
    for the bytes of an array.
    """
    pairs = ((bytes, bytes), (list, list), (tuple, tuple))
    if op != "==" or not any(isinstance(left, a) and isinstance(right, b) for a, b in pairs):
        return None
    assert isinstance(left, (bytes, list, tuple))
    assert isinstance(right, (bytes, list, tuple))
    if len(left) + len(right) < LONG:
        return None
    kind = type(left).__name__
    return [
        f"{kind} of {len(left)} == {kind} of {len(right)}",
        *(first_difference(left, right) or ["one is the beginning of the other"]),
    ]


def first_difference(left: Sequence[object], right: Sequence[object]) -> list[str]:
    """The first place where both have something else, and what; nothing if there is none."""
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return [f"first difference at {place}:", f"  {a!r:.300}", f"  {b!r:.300}"]
    return []
