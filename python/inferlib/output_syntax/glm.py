"""GLM-4.5 and later.

``<tool_call>add``, then ``<arg_key>a</arg_key>`` and ``<arg_value>1</arg_value>`` in turn. Values
that are no strings are JSON; the tool's schema says which are strings.
"""

from __future__ import annotations

import json
import re

from .syntax import CallsRead, MalformedCallError, OutputSyntax, Region, Schemas, WrittenCall
from .typed_values import typed_value

# Names are bounded, so that no text takes more than linear time.
_PAIR = re.compile(
    r"<arg_key>([^<]{0,200})</arg_key>\s*<arg_value>(.*?)(?:</arg_value>|(?=<arg_key>)|\Z)",
    re.DOTALL,
)


def _read(body: str, _header: str, schemas: Schemas) -> CallsRead:
    name = body.partition("<arg_key>")[0].strip()
    if not name or re.search(r"[\s<{]", name):
        raise MalformedCallError("no_name", "the call names no tool")
    schema = schemas.get(name, {})
    arguments = {}
    for key, text in _PAIR.findall(body):
        known = schema.get(key.strip())
        arguments[key.strip()] = _json_or_text(text) if known is None else typed_value(text, known)
    return CallsRead([WrittenCall(name, arguments, None, body.strip())], "")


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


GLM = OutputSyntax(
    name="glm",
    regions=(Region(part="tool", opens=("<tool_call>",), closes=("</tool_call>",), read=_read),),
)
