"""Llama 3.1 to 3.3.

The whole answer is ``{"name": "add", "parameters": {"a": 1}}``, several with ``;`` between them,
also behind ``<|python_tag|>``. Built-in tools: ``<|python_tag|>brave_search.call(query="…")``.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from .json_calls import read_json_calls
from .syntax import CallsRead, MalformedCallError, OutputSyntax, Region, Schemas, WrittenCall

_BUILT_IN = re.compile(r"\s*([A-Za-z_]\w*)\.call\((.*)\)\s*", re.DOTALL)
_KEYWORD = re.compile(r'\s*([A-Za-z_]\w*)="(.*?)"(?:,|$)', re.DOTALL)


def _read_start(body: str, _header: str, _schemas: Schemas) -> CallsRead | None:
    """Read an answer that may as well be JSON for its own sake."""
    try:
        return read_json_calls(body, must_have_arguments=True)
    except MalformedCallError as error:
        if error.problem == "unfinished" and re.match(r'\{\s*"(name|type|function)"\s*:', body):
            raise
        return None


def _read_tagged(body: str, _header: str, _schemas: Schemas) -> CallsRead:
    """Read a call of a built-in tool, JSON, or Python for the interpreter."""
    match = _BUILT_IN.fullmatch(body)
    if match is not None and (arguments := _keywords(match[2])) is not None:
        return CallsRead([WrittenCall(match[1], arguments, None, body.strip())], "")
    if body.lstrip()[:1] in ("{", "["):
        return read_json_calls(body)
    if not body.strip():
        raise MalformedCallError("unfinished", "nothing follows <|python_tag|>")
    return CallsRead([WrittenCall("code_interpreter", {"code": body.strip()}, None, body)], "")


def _keywords(text: str) -> dict[str, Any] | None:
    """``a="x", b=1`` as values; ``None`` if it is something else."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if isinstance(call, ast.Call) and not call.args and all(k.arg for k in call.keywords):
            return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    # Templates write strings without escapes: ``query="say "hi""``.
    values, start = {}, 0
    while start < len(text):
        match = _KEYWORD.match(text, start)
        if match is None:
            return None
        values[match[1]] = match[2]
        start = match.end()
    return values


LLAMA = OutputSyntax(
    name="llama",
    regions=(
        Region(part="tool", opens=("<|python_tag|>",), closes=("<|eom_id|>",), read=_read_tagged),
        Region(part="tool", opens=("{",), at_start=True, keeps_open=True, read=_read_start),
    ),
)
