"""What models write, taken apart: recorded outputs of each syntax."""

from __future__ import annotations

import dataclasses

import pytest

from inferlib.output_syntax import (
    REASONING_SYNTAXES,
    TOOL_SYNTAXES,
    reasoning_syntax_of,
    tool_syntax_of,
)
from inferlib.output_syntax.parser import (
    MAX_EXTENSIONS,
    MAX_HEADER_CHARACTERS,
    MAX_MALFORMED,
    MarkerTables,
    OutputParser,
    OutputReading,
    parse_whole,
    region_at_end,
)

SCHEMAS = {
    "get_weather": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "hourly": {"type": "boolean"},
        "share": {"type": "number", "nullable": True},
        "hours": {"type": "array", "items": {"type": "number"}},
    },
}


def reading_of(tools=None, reasoning=None, *, schemas=SCHEMAS, prompt="", dropped=()):
    syntaxes = [REASONING_SYNTAXES[reasoning]] if reasoning else []
    if tools is not None and TOOL_SYNTAXES[tools] not in syntaxes:
        syntaxes.append(TOOL_SYNTAXES[tools])
    tables = MarkerTables([region for each in syntaxes for region in each.regions], dropped)
    starts_in = region_at_end(tables.regions, prompt)
    return OutputReading(tables=tables, schemas=schemas, starts_in=starts_in, salt="prompt")


def calls_of(parsed):
    return [(call.name, call.arguments) for call in parsed.tool_calls]


RECORDED = {
    "hermes": (
        "hermes",
        'I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n'
        '</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "I look.",
        [("get_weather", {"city": "Köln"}), ("now", {})],
    ),
    "hermes, no closing tag": (
        "hermes",
        '<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}',
        "",
        [("now", {"zone": "UTC"})],
    ),
    "hermes, a tag within a string": (
        "hermes",
        '<tool_call>{"name": "say", "arguments": {"text": "</tool_call>"}}</tool_call> done',
        "done",
        [("say", {"text": "</tool_call>"})],
    ),
    "hermes, quoted arguments": (
        "hermes",
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        [("add", {"a": 1})],
    ),
    "llama": (
        "llama",
        '{"name": "get_weather", "parameters": {"city": "Köln"}}',
        "",
        [("get_weather", {"city": "Köln"})],
    ),
    "llama, two": (
        "llama",
        '\n{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": [1, null]}}',
        "",
        [("a", {}), ("b", {"x": [1, None]})],
    ),
    "llama, typed": (
        "llama",
        '{"type": "function", "name": "a", "parameters": {"x": "1"}}',
        "",
        [("a", {"x": "1"})],
    ),
    "llama, built-in": (
        "llama",
        '<|python_tag|>brave_search.call(query="a, b \\"c\\"", count=2)',
        "",
        [("brave_search", {"query": 'a, b "c"', "count": 2})],
    ),
    "llama, built-in without escapes": (
        "llama",
        '<|python_tag|>brave_search.call(query="say \\ and \'x")',
        "",
        [("brave_search", {"query": "say \\ and 'x"})],
    ),
    "llama, tagged JSON": (
        "llama",
        'So:<|python_tag|>{"name": "a", "parameters": {"x": 1}}<|eom_id|>',
        "So:",
        [("a", {"x": 1})],
    ),
    "llama, code": (
        "llama",
        "<|python_tag|>print(1 + 1)\nprint('{')",
        "",
        [("code_interpreter", {"code": "print(1 + 1)\nprint('{')"})],
    ),
    "llama, JSON of its own": (
        "llama",
        '{"name": "Bob", "age": 3} is the answer',
        '{"name": "Bob", "age": 3} is the answer',
        [],
    ),
    "mistral": (
        "mistral",
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}, '
        '{"name": "add", "arguments": {"a": 2}, "id": "bcdefghij"}]',
        "",
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
    "mistral since 2025": (
        "mistral",
        'Well. [TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}',
        "Well.",
        [("add", {"a": 1}), ("now", {})],
    ),
    "mistral, a marker within a string": (
        "mistral",
        '[TOOL_CALLS]say[ARGS]{"text": "[TOOL_CALLS]x[ARGS]{}"}',
        "",
        [("say", {"text": "[TOOL_CALLS]x[ARGS]{}"})],
    ),
    "granite": (
        "granite",
        '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}, {"name": "now"}]',
        "",
        [("add", {"a": 1}), ("now", {})],
    ),
    "granite 3.1": (
        "granite",
        '<tool_call>[{"name": "add", "arguments": {"a": 1}}',  # without the bracket
        "",
        [("add", {"a": 1})],
    ),
    "phi": (
        "phi",
        '<|tool_call|>[{"name": "add", "parameters": {"a": 1}}]<|/tool_call|>',
        "",
        [("add", {"a": 1})],
    ),
    "phi-4-mini": (
        "phi",
        'functools[{"name": "add", "arguments": {"a": 1}}]',
        "",
        [("add", {"a": 1})],
    ),
    "harmony": (
        "harmony",
        "<|channel|>analysis<|message|>It wants a sum.<|end|><|start|>assistant<|channel|>"
        'commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>',
        "",
        [("add", {"a": 1})],
    ),
    "harmony, recipient first, preamble": (
        "harmony",
        "<|channel|>commentary<|message|>I add.<|end|><|start|>assistant to=functions.add"
        '<|channel|>commentary json<|message|>{"a": 1}',
        "I add.",
        [("add", {"a": 1})],
    ),
    "harmony, python": (
        "harmony",
        "<|channel|>analysis to=python code<|message|>print(1)<|call|>",
        "",
        [("python", {"code": "print(1)"})],
    ),
    "deepseek": (
        "deepseek",
        "Now.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
        '{"a": "```"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Now.",
        [("add", {"a": "```"}), ("now", {})],
    ),
    "deepseek 3.1": (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [("add", {"a": 1}), ("now", {})],
    ),
    "command a": (
        "command_a",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1}}\n'
        "]<|END_ACTION|>",
        "",
        [("add", {"a": 1})],
    ),
    "command a, answer": (
        "command_a",
        "<|START_RESPONSE|>It is 3.<|END_RESPONSE|>",
        "It is 3.",
        [],
    ),
    "command r": (
        "command_r",
        'Plan.\nAction: ```json\n[\n    {"tool_name": "add", "parameters": {"a": 1}}\n]\n```',
        "Plan.",
        [("add", {"a": 1})],
    ),
    "qwen coder": (
        "qwen_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=hourly>\nTrue\n</parameter>\n"
        "<parameter=share>\nNone\n</parameter>\n<parameter=hours>\n[1, 2.5]\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        [
            (
                "get_weather",
                {"city": "12", "days": 3, "hourly": True, "share": None, "hours": [1, 2.5]},
            )
        ],
    ),
    "seed": (
        "qwen_coder",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Köln</parameter>\n"
        "</function>\n</seed:tool_call>",
        "",
        [("get_weather", {"city": "Köln"})],
    ),
    "qwen coder, without the outer tag": (
        "qwen_coder",
        "Well:\n<function=get_weather>\n<parameter=city>\na\nb\n</parameter>\n</function>",
        "Well:",
        [("get_weather", {"city": "a\nb"})],
    ),
    "qwen coder, what does not fit stays text": (
        "qwen_coder",
        "<tool_call><function=get_weather><parameter=days>three</parameter></function></tool_call>",
        "",
        [("get_weather", {"days": "three"})],
    ),
    "glm": (
        "glm",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
        '<arg_key>other</arg_key>\n<arg_value>{"a": 1}</arg_value>\n</tool_call>',
        "",
        [("get_weather", {"city": "12", "days": 3, "other": {"a": 1}})],
    ),
    "kimi": (
        "kimi",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
        '<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|><|tool_call_begin|>functions.now:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        "",
        [("add", {"a": 1}), ("now", {})],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_calls(name):
    syntax, text, content, calls = RECORDED[name]
    parsed = parse_whole(reading_of(syntax), text)
    assert calls_of(parsed) == calls
    assert parsed.content == content
    assert parsed.malformed == []


def test_ids_are_the_models_own_or_differ_by_prompt_and_place():
    own = parse_whole(reading_of("mistral"), RECORDED["mistral"][1])
    assert [call.id for call in own.tool_calls] == ["abcdefghi", "bcdefghij"]
    kimi = parse_whole(reading_of("kimi"), RECORDED["kimi"][1])
    assert kimi.tool_calls[0].id == "functions.add:0"
    twice = '<tool_call>{"name": "now"}</tool_call>' * 2
    made = [call.id for call in parse_whole(reading_of("hermes"), twice).tool_calls]
    assert len(set(made)) == 2
    assert all(len(each) == 9 and each.isalnum() for each in made)
    assert made == [call.id for call in parse_whole(reading_of("hermes"), twice).tool_calls]


MALFORMED = {
    "no JSON": ("hermes", "a <tool_call>add(1)</tool_call> b", "no_json"),
    "broken off": ("hermes", '<tool_call>{"name": "add", "arg', "unfinished"),
    "no name": ("hermes", '<tool_call>{"arguments": {}}</tool_call>', "no_name"),
    "a list": ("hermes", '<tool_call>{"name": "a", "arguments": [1]}</tool_call>', "no_arguments"),
    "a number": ("hermes", "<tool_call>7</tool_call>", "no_json"),
    "nothing": ("hermes", "<tool_call></tool_call>", "no_json"),
    "more": ("hermes", '<tool_call>{"name": "a"} and so on</tool_call>', "no_json"),
    "empty list": ("mistral", "[TOOL_CALLS] []", "no_json"),
    "llama breaks off": ("llama", '{"name": "add", "parameters": {"a', "unfinished"),
    "no recipient's arguments": ("deepseek", "<｜tool▁calls▁begin｜>hm", "no_json"),
    "no separator": ("kimi", "<|tool_calls_section_begin|><|tool_call_begin|>x", "unfinished"),
    "coder without function": ("qwen_coder", "<tool_call>x</tool_call>", "no_json"),
    "glm without name": ("glm", "<tool_call><arg_key>a</arg_key></tool_call>", "no_name"),
    "deep": ("hermes", f"<tool_call>{'[' * 100_000}</tool_call>", "no_json"),
    "digits": ("hermes", f'<tool_call>{{"name": {"9" * 5000}}}</tool_call>', "no_json"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_call_stays_in_the_text_with_a_note(name):
    syntax, text, problem = MALFORMED[name]
    parsed = parse_whole(reading_of(syntax), text)
    assert parsed.tool_calls == []
    assert parsed.content == text
    assert [note.problem for note in parsed.malformed] == [problem]
    assert parsed.malformed[0].raw_text in text
    assert parsed.malformed[0].message


def test_a_call_behind_a_malformed_one_is_found():
    text = '<tool_call>{bad <tool_call>{"name": "now"}</tool_call> z'
    parsed = parse_whole(reading_of("hermes"), text)
    assert calls_of(parsed) == [("now", {})]
    assert parsed.content == "<tool_call>{bad z"


def test_a_malformed_call_on_a_channel_leaves_no_markers_in_the_text():
    text = "<|channel|>commentary to=functions.add<|message|>no JSON<|call|>"
    parsed = parse_whole(reading_of("harmony"), text)
    assert parsed.content == "no JSON"
    assert parsed.malformed[0].problem == "no_json"
    assert "to=functions.add" in parsed.malformed[0].raw_text


def test_endless_malformed_calls_become_text_without_notes():
    text = "<tool_call>" * 500
    parsed = parse_whole(reading_of("hermes"), text)
    assert parsed.content == text
    assert len(parsed.malformed) == MAX_MALFORMED


@pytest.mark.parametrize("name", TOOL_SYNTAXES)
def test_repeated_markers_take_linear_time(name):
    """Nothing is measured: what once was cubic would not end within the test's time limit."""
    markers = TOOL_SYNTAXES[name].markers | {"<parameter=", "<arg_key>", '{"name": "', "[", "{"}
    for marker in markers:
        text = next(iter(TOOL_SYNTAXES[name].regions[-1].opens)) + marker * (60_000 // len(marker))
        parsed = parse_whole(reading_of(name), text)
        assert len(parsed.tool_calls) <= 1
        assert len(parsed.content) <= len(text)


def test_closing_tags_in_a_string_that_never_ends():
    text = '<tool_call>{"name": "' + "</tool_call>" * (MAX_EXTENSIONS + 5)
    parsed = parse_whole(reading_of("hermes"), text)
    assert parsed.content == text
    assert len(parsed.malformed) == 1


class TestReasoning:
    def test_before_the_answer(self):
        parsed = parse_whole(reading_of(None, "think"), "<think>\nhm,\nwell\n</think>\n\nYes. ")
        assert (parsed.reasoning, parsed.content) == ("hm,\nwell", "Yes. ")

    def test_a_template_that_opens_it(self):
        reading = reading_of(None, "think", prompt="<|Assistant|><think>\n")
        parsed = parse_whole(reading, "hm\n</think>\n\nYes")
        assert (parsed.reasoning, parsed.content) == ("hm", "Yes")

    def test_a_template_that_closes_it(self):
        reading = reading_of(None, "think", prompt="<think>\n\n</think>\n\n")
        assert parse_whole(reading, "Yes").content == "Yes"

    def test_it_never_ends(self):
        parsed = parse_whole(reading_of(None, "think"), "<think>and so on ")
        assert (parsed.reasoning, parsed.content) == ("and so on ", "")

    def test_then_calls(self):
        text = '<think>x</think>\n<tool_call>{"name": "now"}</tool_call>'
        parsed = parse_whole(reading_of("hermes", "think"), text)
        assert (parsed.reasoning, parsed.content, len(parsed.tool_calls)) == ("x", "", 1)

    def test_then_a_call_without_markers(self):
        text = '<think>x</think>\n{"name": "now", "parameters": {}}'
        assert calls_of(parse_whole(reading_of("llama", "think"), text)) == [("now", {})]

    def test_a_call_within_it_is_none(self):
        text = '<think><tool_call>{"name": "now"}</tool_call></think>Yes'
        parsed = parse_whole(reading_of("hermes", "think"), text)
        assert parsed.tool_calls == []
        assert parsed.content == "Yes"

    def test_channels(self):
        text = (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>analysis"
            "<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
        )
        parsed = parse_whole(reading_of(None, "harmony"), text)
        assert (parsed.reasoning, parsed.content) == ("Hm.\nWell.", "Yes.")

    def test_channels_after_a_prompt_that_began_the_header(self):
        reading = reading_of(None, "harmony", prompt="<|start|>assistant")
        text = ' to=functions.add<|channel|>commentary json<|message|>{"a": 1}'
        assert calls_of(parse_whole(reading, text)) == [("add", {"a": 1})]

    def test_a_header_that_is_none(self):
        reading = reading_of(None, "harmony", prompt="<|start|>assistant")
        assert parse_whole(reading, "Just text").content == "Just text"
        long = "text " * MAX_HEADER_CHARACTERS
        assert parse_whole(reading, long).content == long

    def test_a_header_that_breaks_off_is_no_text(self):
        parsed = parse_whole(reading_of(None, "harmony"), "<|channel|>anal")
        assert (parsed.content, parsed.reasoning) == ("", "")


@pytest.mark.parametrize(
    ("written", "text", "content", "reasoning"),
    [
        ("<think>a", " b</think>c", "c", " b"),
        ("<think>a\n", "b</think>c", "c", "b"),
        ("<think>a</think>b ", "c", "c", ""),
        ("b", " <think>c</think>d", " d", "c"),
        ("b <", "th", "th", ""),
        ("", "<think>c", "", "c"),
    ],
)
def test_an_answer_that_goes_on_with_a_message(written, text, content, reasoning):
    reading = dataclasses.replace(reading_of("hermes", "think"), written=written)
    parsed = parse_whole(reading, text)
    assert (parsed.content, parsed.reasoning) == (content, reasoning)


def test_a_call_that_goes_on():
    written = 'I add. <tool_call>{"name": "add", "arguments": {"a": '
    reading = dataclasses.replace(reading_of("hermes"), written=written)
    parsed = parse_whole(reading, "17}}</tool_call> So.")
    assert calls_of(parsed) == [("add", {"a": 17})]
    assert parsed.content == "\nSo."


def test_white_space_that_no_marker_touches_stays():
    for text in ("", " ", "\n a \n", "a\n\n b\n"):
        assert parse_whole(reading_of("hermes", "think"), text).content == text


def test_special_tokens_that_mark_nothing_are_left_out():
    reading = reading_of("mistral", dropped=["<s>", "[control_8]"])
    parsed = parse_whole(reading, '<s>a[control_8]b[TOOL_CALLS]say[ARGS]{"x": "<s>"}')
    assert parsed.content == "ab"
    assert calls_of(parsed) == [("say", {"x": "<s>"})]


def test_only_what_may_be_a_marker_is_held_back():
    parser = OutputParser(reading_of("hermes", "think"))
    given = [parser.feed(piece) for piece in ("a <", "b <th", "ink>x", "y</", "think>\n", "z")]
    assert [(each.content, each.reasoning) for each in given] == [
        ("a", ""),
        (" <b", ""),
        ("", "x"),
        ("", "y"),
        ("", ""),
        (" z", ""),
    ]


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ message.content }}", None, None),
        ("<tool_call></tool_call> </think>", "hermes", "think"),
        ("<function=x> <tool_call>", "qwen_coder", None),
        ('<|start_header_id|> {"name": , "parameters": }', "llama", None),
        ("<|channel|><|message|>", "harmony", "harmony"),
        ("[TOOL_CALLS] [THINK]", "mistral", "mistral_think"),
    ],
)
def test_the_template_says_which(template, tools, reasoning):
    found = tool_syntax_of(template), reasoning_syntax_of(template)
    assert [syntax and syntax.name for syntax in found] == [tools, reasoning]
