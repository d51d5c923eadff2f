"""Moving what exists once only, so that no interrupt can lose it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def move(
    container: MutableSequence[Result], source: Callable[[Argument], Result], argument: Argument
) -> None:
    """Append ``source(argument)`` to ``container``.

    ``container.append(source(argument))`` is two calls, and Python may raise ``KeyboardInterrupt``
    between them. Here the second is made by the first, in C.
    """
    container.extend(map(source, (argument,)))
