"""Parsing what models write: cuts change nothing, no text raises, calls survive the way there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlib import _core
from inferlib.output_syntax import (
    REASONING_SYNTAXES,
    TOOL_SYNTAXES,
    reasoning_syntax_of,
    tool_syntax_of,
)
from inferlib.output_syntax.parser import (
    MarkerTables,
    OutputParser,
    OutputReading,
    ParsedOutput,
    parse_whole,
    region_at_end,
)

TEMPLATES = Path(__file__).parent.parent / "parity" / "chat_templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SYNTAXES = [*TOOL_SYNTAXES.values()]
SCHEMAS = {"add": {"a": {"type": "integer"}, "b": {"type": "string"}}}


def tables_of(*syntaxes, dropped=("<s>", "<|eot|>")):
    return MarkerTables({region: 0 for each in syntaxes for region in each.regions}, dropped)


def all_readings():
    for syntax in SYNTAXES:
        for thoughts in (REASONING_SYNTAXES["think"], REASONING_SYNTAXES["mistral_think"]):
            tables = tables_of(thoughts, syntax)
            for starts_in in (None, tables.regions[0]):
                yield OutputReading(tables=tables, schemas=SCHEMAS, starts_in=starts_in)
    harmony = tables_of(TOOL_SYNTAXES["harmony"])
    yield OutputReading(tables=harmony, starts_in=harmony.regions[0])


READINGS = list(all_readings())
# What matters to some syntax, whole and in parts, and what lies between.
PIECES = [
    *{marker for syntax in SYNTAXES for marker in syntax.markers},
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<s>", "<|eot|>"),
    *('{"name": "add", "arguments": {"a": 1}}', '{"name": "add", "parameters": {"b": "'),
    *("<function=add>", "<parameter=a>", "</parameter>", "<arg_key>a</arg_key>", "<arg_value>"),
    *("functions.add:0", "analysis", "final", " to=functions.add", "assistant", "add", "```json"),
    *('"', '"}}', "[", "]", "{", "}", "\\", ";", ",", "\n", " ", "<", "<|", "a", "🌊", "\ud800"),
]
written = st.lists(
    st.one_of(
        st.sampled_from(PIECES),
        st.sampled_from(PIECES).flatmap(
            lambda piece: st.integers(0, len(piece)).map(lambda end: piece[:end])
        ),
        st.text(max_size=4),
    ),
    max_size=14,
).map("".join)


def parse_in_pieces(reading, text, cuts):
    parser, parsed, start = OutputParser(reading), ParsedOutput(), 0
    for cut in sorted(cut % (len(text) + 1) for cut in cuts):
        parsed += parser.feed(text[start:cut])
        start = cut
    return parsed + parser.feed(text[start:]) + parser.finish()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(READINGS), written, st.lists(st.integers(0, 400), max_size=8))
def test_cuts_change_nothing_and_nothing_raises(reading, text, cuts):
    whole = parse_whole(reading, text)
    assert parse_in_pieces(reading, text, cuts) == whole
    assert len(whole.content) + len(whole.reasoning) <= len(text) + text.count("<") + text.count(
        "["
    )
    assert all(call.name and isinstance(call.arguments, dict) for call in whole.tool_calls)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(READINGS), written)
def test_one_character_at_a_time(reading, text):
    assert parse_in_pieces(reading, text, range(len(text))) == parse_whole(reading, text)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_text_without_markers_is_content(text):
    reading = OutputReading(tables=tables_of(TOOL_SYNTAXES["hermes"], REASONING_SYNTAXES["think"]))
    if "<" not in text:
        assert parse_whole(reading, text).content == text


# The way there and back: what a template writes of a call, the parser reads as that call.

json_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["</tool_call>", "[TOOL_CALLS]", "]", "}", '"', "\\", "<|call|>", "```", "true", "1", "None"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | json_text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(json_text, inner, max_size=2),
    max_leaves=4,
)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
arguments = st.dictionaries(names, json_values, max_size=3)
# Without quotes, white space at the ends and the syntax's own tags cannot be told apart.
plain_text = st.from_regex(r"[^<>\s\x00](?:[^<>\x00]{0,10}[^<>\s\x00])?", fullmatch=True)
unquoted = st.dictionaries(
    names, plain_text | st.integers(-(10**9), 10**9) | st.booleans(), max_size=3
)

# Template, arguments that its syntax can express, whether an answer can hold several calls.
ROUND_TRIPS = {
    "qwen25_tools": (arguments, True),
    "hermes_tools": (arguments, True),
    "smollm3": (arguments, True),
    "llama3_tools": (arguments, False),
    "mistral_v3": (arguments, True),
    "magistral": (arguments, True),
    "granite_tools": (arguments, True),
    "phi4_tools": (arguments, True),
    "gpt_oss": (arguments, False),
    "deepseek_v3": (arguments, False),
    "deepseek_v31": (arguments, True),
    "command_a": (arguments, True),
    "command_r_action": (arguments, True),
    "kimi_k2": (arguments, True),
    "qwen3_coder": (unquoted, True),
    "glm45": (unquoted, True),
}


def schema_of(value):
    kinds = {bool: "boolean", int: "integer", str: "string"}
    return {"type": kinds.get(type(value), "object")}


def messages_with(calls, *, as_text=False, short_ids=False):
    return [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": f"callnr00{i}" if short_ids else f"functions.{name}:{i}",
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": json.dumps(given) if as_text else given,
                    },
                }
                for i, (name, given) in enumerate(calls)
            ],
        },
    ]


@pytest.mark.parametrize("name", ROUND_TRIPS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_what_a_template_writes_of_calls_is_read_as_those_calls(name, data):
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    given_arguments, several = ROUND_TRIPS[name]
    calls = data.draw(
        st.lists(
            st.tuples(names, given_arguments),
            min_size=1,
            max_size=3 if several else 1,
            unique_by=lambda call: call[0],
        )
    )
    template = _core.ChatTemplate(source, SPECIAL)
    messages = messages_with(calls, as_text=name == "deepseek_v31", short_ids=name == "mistral_v3")
    prompt = template.render(messages[:1], add_generation_prompt=True)
    whole = template.render(messages, add_generation_prompt=False)
    answer = whole[len(common_prefix(prompt, whole)) :] if name != "deepseek_v3" else whole
    reading = OutputReading(
        tables=tables_of(
            *filter(None, [reasoning_syntax_of(source), tool_syntax_of(source)]),
            dropped=("<|END_OF_TURN_TOKEN|>", "</s>", "<|im_end|>", "<|eot_id|>"),
        ),
        schemas={call: {k: schema_of(v) for k, v in given.items()} for call, given in calls},
    )
    starts_in = region_at_end(reading.tables.regions, common_prefix(prompt, whole))
    reading = OutputReading(tables=reading.tables, schemas=reading.schemas, starts_in=starts_in)
    parsed = parse_whole(reading, answer)
    assert [(call.name, call.arguments) for call in parsed.tool_calls] == calls
    assert parsed.malformed == []


def common_prefix(one, other):
    end = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one if end is None else one[:end]
