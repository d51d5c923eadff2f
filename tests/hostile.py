"""Hostile values for every argument of every call, found by looking at the signatures.

A new call or option is in here without anybody's doing; ``tests/property/test_hostile_fields.py``
checks what becomes of the values, ``bench/hostile_fields.py`` what refusing them costs.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import inferlib
from inferlib import call_options
from inferlib.testing import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEW = 16
"""Every so manieth value is tried where all would take too long."""
NOT_REQUESTS = {"close", "aclose", "stats", "afrom_pretrained", "from_pretrained"}
MESSAGES = [{"role": "user", "content": "x"}]
VALID: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "x"},
    "stream": {"prompt": "x"},
    "submit": {"prompt": "x"},
    "chat": {"messages": MESSAGES},
    "stream_chat": {"messages": MESSAGES},
    "generate_many": {"prompts": ["x"]},
    "chat_many": {"conversations": [MESSAGES]},
    "apply_chat_template": {"messages": MESSAGES},
    "prefill": {"prompt": "x"},
    "loglikelihood": {"contexts": "x", "continuations": "y"},
    "choose": {"prompt": "x", "options": ["a", "b"]},
    "beam_search": {"prompt": "x", "num_beams": 2, "max_tokens": 1},
    "load_sequence": {"path": "missing"},
    "load_adapter": {"path": "missing"},
    "unload_adapter": {"name": "missing"},
    "embed": {"texts": "x"},
    "forward": {"prompt": "x", "capture": "ln_final"},
    "weight": {"name": "norm.weight"},
    "classify": {"texts": "x"},
    "rerank": {"query": "x", "documents": ["a", "b"]},
    "replay": {"receipt": {}},
}
"""What each call needs; the asynchronous twins need the same."""


class Surly:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise ValueError("surly")

    def __index__(self) -> int:
        raise ZeroDivisionError("surly")

    __float__ = __len__ = __index__  # type: ignore[assignment]

    def __iter__(self) -> Iterator[object]:
        raise ZeroDivisionError("surly")


def deep() -> list[object]:
    """A list that is nested 100,000 deep."""
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


def cyclic() -> list[object]:
    """A list that holds itself."""
    value: list[object] = [1]
    value.append(value)
    return value


VALUES: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1.5": lambda: 1.5,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "10^30": lambda: 10**30,
    "10^5000": lambda: 10**5000,
    "2^31": lambda: 2**31,
    "2^63": lambda: 2**63,
    "complex": lambda: 1j,
    "empty text": lambda: "",
    "text": lambda: "nonsense",
    "a number as text": lambda: "1",
    "a lone surrogate": lambda: "\ud800",
    "NUL": lambda: "\0",
    "1 MB of text": lambda: "x" * 2**20,
    "bytes": lambda: b"x" * 2**20,
    "an empty list": list,
    "a list of None": lambda: [None],
    "nested lists": lambda: [[[]]],
    "100,000 strings": lambda: ["s"] * 100_000,
    "100,000 numbers": lambda: [1] * 100_000,
    "a list of 10^30": lambda: [10**30],
    "a list of NaN": lambda: [float("nan")],
    "a list of surrogates": lambda: ["\ud800"],
    "mixed": lambda: [1, "a", None],
    "a deep list": deep,
    "a cyclic list": cyclic,
    "an empty dict": dict,
    "a dict of None": lambda: {None: None},
    "a dict of odd keys": lambda: {(1, 2): 3, 1.5: "x"},
    "a dict of surrogates": lambda: {"\ud800": "\ud800"},
    "a set": lambda: {1, 2},
    "an object": object,
    "a class": lambda: int,
    "a function": lambda: len,
    "a surly object": Surly,
    "a list of surly objects": lambda: [Surly()],
    "an array": lambda: np.zeros((3, 3)),
    "an array of texts": lambda: np.array(["a", "b"]),
    "an empty array": lambda: np.zeros(0, np.int64),
    "NumPy's NaN": lambda: np.float32("nan"),
    "an endless iterator": lambda: itertools.repeat(1),
    "an iterator of texts": lambda: iter(["a", "b"]),
    "a range": lambda: range(3),
    "a file": lambda: open(0, closefd=False),  # noqa: SIM115
}


@dataclass(frozen=True, slots=True)
class Field:
    """One argument of one call."""

    call: str
    name: str

    def __str__(self) -> str:
        return f"{self.call}({self.name})"


def fields() -> list[Field]:
    """Every argument of every call of ``Model``, and of loading."""
    found = []
    for name, function in inspect.getmembers(inferlib.Model, inspect.isfunction):
        if name.startswith("_") or name in NOT_REQUESTS:
            continue
        assert valid(name) is not None, f"say in VALID what {name} needs"
        found += [Field(name, argument) for argument in arguments(function)]
    options = call_options.LoadOptions.__annotations__
    return [*found, *(Field("load", name) for name in options), Field("open", "name_or_path")]


def arguments(function: Callable[..., object]) -> list[str]:
    """Names of a call's arguments, those of ``**options`` too."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            keywords = str(parameter.annotation).removeprefix("Unpack[").removesuffix("]")
            names += getattr(call_options, keywords).__annotations__
        elif parameter.name != "self":
            names.append(parameter.name)
    return names


def valid(call: str) -> dict[str, Any] | None:
    """What a call needs; of an asynchronous one, what its twin needs."""
    return VALID.get(call) or VALID.get(call.removeprefix("a"))


def make_call(model: inferlib.Model, field: Field, value: object) -> None:
    """Call with this value for the field; whatever comes back is let go."""
    if field.name == "revision":
        inferlib.Model.from_pretrained("nowhere", revision=value)  # type: ignore[arg-type]
        return
    if field.call == "load":
        tiny_model(**{field.name: value}).close()  # type: ignore[arg-type]
        return
    if field.call == "open":
        inferlib.Model.from_pretrained(value).close()  # type: ignore[arg-type]
        return
    given = {**(valid(field.call) or {}), field.name: value}
    result = getattr(model, field.call)(**given)
    if inspect.iscoroutine(result):
        result = asyncio.run(asyncio.wait_for(result, 20))
    if hasattr(result, "__next__"):
        next(result, None)
    for end in ("cancel", "close"):
        if hasattr(result, end):
            getattr(result, end)()


def is_work(field: Field, value: str) -> bool:
    """Whether this is no hostility but much to do: 100,000 prompts."""
    many = {"prompt", "prompts", "contexts", "continuations", "options", "conversations"}
    many |= {"texts", "documents"}
    return value.startswith("100,000") and field.name in many


def is_fair(field: Field, error: BaseException) -> bool:
    """Whether callers may get this: a typed error, the system's about a file, or their own."""
    if isinstance(error, inferlib.InternalError):
        return False
    if isinstance(error, OSError) and not isinstance(error, inferlib.InferlibError):
        return field.call.endswith("load_sequence")
    return isinstance(error, inferlib.InferlibError) or str(error) == "surly"
