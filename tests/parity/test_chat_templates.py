"""Chat templates render, byte for byte, as Jinja2 renders them in transformers' environment."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import pytest

from inferlib import _core, errors
from inferlib.chat import encode_conversation
from inferlib.testing import byte_tokenizer

TEMPLATES = sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
TOKENIZER = byte_tokenizer()
NOW = (1_796_083_200, 3600)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Generation(jinja2.ext.Extension):
    """``{% generation %}``: the body, as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def parse(self, parser: Any) -> Any:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller: Any) -> Any:
        return caller()


def jinja_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What transformers sets up for chat templates."""

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        x: Any,
        ensure_ascii: bool = False,  # noqa: FBT001, FBT002 (templates call it so)
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,  # noqa: FBT001, FBT002
    ) -> str:
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    def strftime_now(form: str) -> str:
        return datetime.fromtimestamp(sum(NOW), tz=UTC).replace(tzinfo=None).strftime(form)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "id": "call12345",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Tells the weather <now> & "here" — in °C.',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "unit": {"type": "string", "enum": ["°C", "°F"], "description": "Which unit"},
                "days": {"type": ["integer", "null"], "description": "How many"},
                "hours": {"type": "array", "items": {"type": "number"}, "description": "When"},
            },
            "required": ["city"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "number", "description": "One"},
                "b": {"type": "number", "description": "Other"},
            },
            "required": ["a", "b"],
        },
    },
}
USER = {"role": "user", "content": "Hi there"}
SYSTEM = {"role": "system", "content": "You are terse.\n"}
ANSWER = {"role": "assistant", "content": "Hello!"}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one question": {"messages": [USER]},
    "no prompt": {"messages": [USER, ANSWER], "add_generation_prompt": False},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [SYSTEM, USER, ANSWER, USER, ANSWER, USER]},
    "white space": {"messages": [{"role": "user", "content": "  \n\t two\n\n\nlines \u00a0 "}]},
    "scripts": {
        "messages": [
            {"role": "user", "content": "नमस्ते 👩‍👩‍👧 <b>&amp;</b> 'quoted' \"twice\" \\n é \u2028"},
            {"role": "assistant", "content": "{{ not a template }} {% if %} {# #} \x00\x7f"},
            {"role": "user", "content": "中文\r\nعربى"},
        ]
    },
    "empty": {"messages": [{"role": "user", "content": ""}]},
    "nothing": {"messages": []},
    "thinking": {
        "messages": [
            USER,
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
            USER,
            {"role": "assistant", "content": "Yes.", "reasoning_content": "\nhm\n"},
        ]
    },
    "no thinking": {"messages": [USER], "variables": {"enable_thinking": False}},
    "tools": {"messages": [SYSTEM, USER], "tools": [WEATHER, ADD]},
    "tool call": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call("get_weather", city="Köln", days=3, hours=[1.5, 1e-7, 2.0])],
            },
            {"role": "tool", "tool_call_id": "call12345", "content": '{"sky": "grey"}'},
            {"role": "assistant", "content": "Grey."},
            USER,
        ],
        "tools": [WEATHER],
    },
    "two tool calls": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call("add", a=1, b=-2.5), call("add", b=10**15, a=True)],
            },
            {"role": "tool", "tool_call_id": "call12345", "content": "-1.5"},
            {"role": "tool", "tool_call_id": "call12345", "content": "many"},
        ],
        "tools": [ADD, WEATHER],
    },
    "parts": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Look."}]},
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}],
            },
        ]
    },
    "parallel calls after words": {
        "messages": [
            SYSTEM,
            USER,
            {
                "role": "assistant",
                "content": "Two at once. ",
                "reasoning_content": "They do not depend on each other.",
                "tool_calls": [call("get_weather", city="東京"), call("get_weather", city='"<&>"')],
            },
            {"role": "tool", "tool_call_id": "call12345", "content": "☀\n"},
            {"role": "tool", "tool_call_id": "call12345", "content": ""},
        ],
        "tools": [WEATHER],
    },
    "a call in full": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call("add", a={"b": [None, {}]})],
            },
        ],
        "tools": [ADD],
        "add_generation_prompt": False,
    },
    "arguments as text": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "call12345",
                        "type": "function",
                        "function": {"name": "add", "arguments": '{"a": 1, "b": "é"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call12345", "content": "1é"},
        ],
        "tools": [ADD],
    },
    "no tools": {"messages": [SYSTEM, USER], "tools": []},
    "a tool without parameters": {
        "messages": [USER],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "now",
                    "description": "",
                    "parameters": {"type": "object", "properties": {}},
                },
            }
        ],
    },
    "thinking, then a call": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "A sum.\n",
                "tool_calls": [call("add", a=1, b=2)],
            },
            {"role": "tool", "tool_call_id": "call12345", "name": "add", "content": "3"},
        ],
        "tools": [ADD],
        "variables": {"enable_thinking": True, "thinking": True},
    },
    "thinking asked for": {
        "messages": [{"role": "system", "content": "/think"}, USER],
        "variables": {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"},
    },
    "system in the middle": {"messages": [USER, ANSWER, SYSTEM, USER]},
    "system only": {"messages": [SYSTEM], "add_generation_prompt": False},
    "empty answer": {"messages": [USER, {"role": "assistant", "content": ""}, USER]},
    "an open tag": {
        "messages": [USER, {"role": "assistant", "content": "<think>\nI was"}],
        "add_generation_prompt": False,
    },
    "long": {"messages": [USER, ANSWER] * 40 + [{"role": "user", "content": "é" * 5000}]},
    "two users": {"messages": [USER, USER]},
    "unknown role": {"messages": [{"role": "narrator", "content": "Once …"}]},
    "no content": {"messages": [USER, {"role": "assistant"}]},
    "more keys": {
        "messages": [{"content": "keys in another order", "name": "x", "role": "user", "n": 1}],
        "variables": {"controls": {"b": 1, "a": [None, 1.0, "é"]}, "reasoning_effort": "high"},
    },
}


@functools.cache
def jinja_template(source: str) -> jinja2.Template:
    return jinja_environment().from_string(source)


def by_jinja(source: str, conversation: dict[str, Any]) -> str | None:
    """The text, or ``None`` if the template refuses."""
    template = jinja_template(source)
    try:
        return template.render(
            messages=conversation["messages"],
            tools=conversation.get("tools"),
            documents=None,
            add_generation_prompt=conversation.get("add_generation_prompt", True),
            **SPECIAL,
            **conversation.get("variables", {}),
        )
    except (jinja2.exceptions.TemplateError, TypeError):
        return None


def by_inferlib(source: str, conversation: dict[str, Any]) -> str | None:
    """The same by the template engine that ships."""
    template = _core.ChatTemplate(source, SPECIAL)
    try:
        return template.render(
            conversation["messages"],
            tools=conversation.get("tools"),
            add_generation_prompt=conversation.get("add_generation_prompt", True),
            variables=conversation.get("variables"),
            now=NOW,
        )
    except errors.TemplateError:
        return None


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_text_is_jinjas(path: Path, conversation: str) -> None:
    source = path.read_text(encoding="utf-8")
    case = CONVERSATIONS[conversation]
    assert by_inferlib(source, case) == by_jinja(source, case)


def test_there_are_enough_templates_and_most_conversations_render() -> None:
    assert len(TEMPLATES) >= 30
    assert len(CONVERSATIONS) >= 30
    sources = [path.read_text(encoding="utf-8") for path in TEMPLATES]
    rendered = [by_jinja(source, case) for source in sources for case in CONVERSATIONS.values()]
    assert sum(text is not None for text in rendered) >= 0.7 * len(rendered)


# transformers' `continue_final_message`, written here again from its documentation: the text ends
# where the final message does, without the white space that the template strips from messages.
UNFINISHED = {
    "plain": "Well",
    "a space at the end": "Well, ",
    "lines": "\n One\n\ntwo\n",
    "twice": "Hi there",  # stands in the question, too
    "tag": "<think>\nI was",
    "unicode": "नमस्ते 🌊 {{ x }}",
}


def continued_by_jinja(source: str, content: str) -> str | None:
    mark = "END_OF_IT "
    messages = [SYSTEM, USER, {"role": "assistant", "content": content + mark}]
    text = by_jinja(source, {"messages": messages, "add_generation_prompt": False})
    if text is None or mark.strip() not in text:
        return None
    place = text.rindex(mark.strip())
    return text[:place] if text[place:].startswith(mark) else text[:place].rstrip()


@pytest.mark.parametrize("content", UNFINISHED.values(), ids=UNFINISHED)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_unfinished_message_is_continued_as_in_transformers(path: Path, content: str) -> None:
    source = path.read_text(encoding="utf-8")
    if "strftime_now" in source:
        source = source.replace("strftime_now", "string_of_now")
        source = "{% macro string_of_now(form) %}today{% endmacro %}" + source
    messages = [SYSTEM, USER, {"role": "assistant", "content": content}]
    try:
        ours = encode_conversation(
            messages, _core.ChatTemplate(source, SPECIAL), TOKENIZER, continue_final_message=True
        ).text
    except errors.TemplateError:
        ours = None
    assert ours == continued_by_jinja(source, content)
