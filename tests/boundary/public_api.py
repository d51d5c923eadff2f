"""What callers may rely on, as text: names, signatures, fields, keywords.

``make api`` writes it to ``public_api.txt``; the test compares.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from pathlib import Path
from typing import is_typeddict

import inferlib
import inferlib.testing
from inferlib import call_options

PATH = Path(__file__).with_name("public_api.txt")
# What keywords of the calls are: `**options: Unpack[…]` in their signatures.
KEYWORDS = (
    call_options.LoadOptions,
    call_options.CallOptions,
    call_options.ChatCallOptions,
    call_options.ForwardOptions,
)


def describe() -> str:
    lines = []
    for name in sorted(inferlib.__all__):
        if name != "__version__":
            lines += _describe(name, getattr(inferlib, name))
    for name in ("Clock", "Faults", "ScriptedModel", "tiny_model"):
        lines += _describe(f"testing.{name}", getattr(inferlib.testing, name))
    for keywords in KEYWORDS:
        lines += _keywords(keywords)
    return "\n".join(lines) + "\n"


def _describe(name: str, value: object) -> list[str]:
    if inspect.isclass(value):
        return _class(name, value)
    if inspect.isroutine(value):
        return [f"{name}{_signature(value)}"]
    return [f"{name} = {value!r}".replace("typing.", "")]


def _class(name: str, cls: type) -> list[str]:
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    lines = [f"class {name}({bases})" if bases else f"class {name}"]
    if issubclass(cls, inferlib.InferlibError):
        lines.append(f"    code = {cls.code!r}, retryable = {cls.retryable}")
    fields = (
        {field.name: field for field in dataclasses.fields(cls)}
        if dataclasses.is_dataclass(cls)
        else {}
    )
    for field in fields.values():
        if not field.name.startswith("_"):
            has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
            lines.append(f"    {field.name}: {field.type}{' = …' if has_default else ''}")
    if "__init__" in vars(cls) and not fields:
        lines.append(f"    __init__{_signature(cls.__init__)}")
    for attribute in sorted(_public(cls) - fields.keys()):
        found = inspect.getattr_static(cls, attribute)
        if isinstance(found, property | functools.cached_property):
            getter = found.fget if isinstance(found, property) else found.func
            lines.append(f"    {attribute} -> {_returns(getter)}")
        elif isinstance(found, classmethod | staticmethod):
            lines.append(f"    {type(found).__name__} {attribute}{_signature(found.__func__)}")
        elif inspect.isroutine(found):
            prefix = "async " if inspect.iscoroutinefunction(found) else ""
            lines.append(f"    {prefix}{attribute}{_signature(found)}")
        elif not isinstance(found, str | bool) and hasattr(found, "__get__"):
            lines.append(f"    {attribute}")
    return lines


def _public(cls: type) -> set[str]:
    """Names of a class and of its bases in this package."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("inferlib")]
    names = {name for base in own for name in vars(base)}
    return {name for name in names if not name.startswith("_")}


def _returns(function: object) -> str:
    return str(getattr(function, "__annotations__", {}).get("return", "…"))


def _signature(function: object) -> str:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return "(…)"
    return str(signature).replace("'", "").replace('"', "")


def _keywords(keywords: type) -> list[str]:
    assert is_typeddict(keywords)
    hints = {
        name: annotation
        for base in keywords.__mro__
        for name, annotation in vars(base).get("__annotations__", {}).items()
    }
    lines = [f"keywords {keywords.__name__}"]
    for name in sorted(hints):
        kind = hints[name]
        lines.append(f"    {name}: {getattr(kind, '__forward_arg__', kind)}")
    return lines


if __name__ == "__main__":
    PATH.write_text(describe(), encoding="utf-8")
