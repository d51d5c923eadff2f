"""Regular expressions of a checkpoint's configuration, which may be hostile.

Python's matcher tries ways to match one after the other, and there may be exponentially many. So
the ways are counted first, from above, and expressions with too many are refused; what
configurations contain in practice (a few ``.*``, alternatives, classes of characters) has not.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from ..errors import ModelFormatError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_PATTERN = 10_000
_LONGEST_NAME = 200
_MOST_WAYS = 2 * _LONGEST_NAME**4
# An item of a pattern: an escape, a class of characters, a counted repeat, the beginning of a
# group, or a character.
_ITEM = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|\(\?<?[:=!]|\(\?|.",
    re.DOTALL,
)
_REPEATS = ("*", "+")


def name_matcher(pattern: str, source: str) -> Callable[[str], bool]:
    r"""Whether the pattern is the beginning of a module's name, as ``re.match`` says.

    Args:
        pattern: Such as ``.*mlp\.gate$``.
        source: Where it is written, for messages.

    Returns:
        A function of a name; names of more than 200 characters match nothing.

    Raises:
        ModelFormatError: It is no regular expression.
        UnsupportedModelError: It might take too long, or has flags, names or references back.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what later versions of Python may read otherwise
            compiled = re.compile(pattern) if len(pattern) <= _LONGEST_PATTERN else None
    except (re.error, RecursionError, OverflowError) as error:
        raise ModelFormatError(
            f"{source}: {pattern[:80]!r} is no regular expression: {error}"
        ) from None
    if compiled is None or _ways(pattern) > _MOST_WAYS:
        raise UnsupportedModelError(
            f"{source}: the expression {pattern[:80]!r} could take too long to match"
        )
    return lambda name: len(name) <= _LONGEST_NAME and compiled.match(name) is not None


def _ways(pattern: str) -> int:
    """In how many ways a name can match, at most."""
    # Of each open group: the ways of its finished alternatives, and of the one being read.
    stack = [[0, 1]]
    last = ""
    for item in _ITEM.findall(pattern):
        is_count = item[0] == "{" and len(item) > 1
        if item == "(?" or (item[0] == "\\" and item[1].isdigit()):
            return _MOST_WAYS + 1
        if item[0] == "(":
            stack.append([0, 1])
        elif item == ")":
            finished, ways = stack.pop()
            stack[-1][1] *= finished + ways
        elif item == "|":
            stack[-1] = [sum(stack[-1]), 1]
        elif item in _REPEATS or is_count:
            if last == ")":  # as often as the group repeats
                return _MOST_WAYS + 1
            stack[-1][1] *= _LONGEST_NAME
        elif item == "?":  # behind a repeat it makes that one lazy, which counts all the same
            stack[-1][1] *= 2
        last = item
    return sum(stack[0])
