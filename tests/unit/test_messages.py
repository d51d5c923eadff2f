"""Messages in OpenAI's form."""

from __future__ import annotations

import pytest

from inferlib import ToolCall
from inferlib.errors import RequestError
from inferlib.messages import check_message, plain_message, with_arguments_as_text

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": "é"}'}}
PLAIN = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": "é"}}}


@pytest.mark.parametrize(
    "call", [CALL, PLAIN, ToolCall(name="add", arguments={"a": "é"}, id="1", raw_text="")]
)
def test_arguments_become_mappings(call):
    message = {"role": "assistant", "tool_calls": [call], "content": None}
    plain = plain_message(0, message)
    assert plain == {"role": "assistant", "tool_calls": [PLAIN], "content": None}
    assert list(plain) == list(message)
    assert CALL["function"]["arguments"] == '{"a": "é"}'  # what was given stays


def test_calls_without_a_function_key():
    message = {"role": "assistant", "tool_calls": [{"name": "add", "arguments": ""}]}
    assert plain_message(0, message)["tool_calls"] == [{"name": "add", "arguments": {}}]


@pytest.mark.parametrize("calls", [None, [], ()])
def test_no_calls_are_no_key(calls):
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    assert plain_message(0, message) == {"role": "assistant", "content": ""}


def test_arguments_as_text():
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "tool_calls": [PLAIN]}]
    assert with_arguments_as_text(messages)[1]["tool_calls"] == [CALL]
    assert PLAIN["function"]["arguments"] == {"a": "é"}


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ("add", "list"),
        ({"name": "add"}, "list"),
        ([7], "mapping or a ToolCall"),
        ([{"function": 7}], "mapping or a ToolCall"),
        ([{"function": {"arguments": {}}}], "no name"),
        ([{"name": "add", "arguments": "{"}], "no JSON"),
        ([{"name": "add", "arguments": "[1]"}], "object"),
        ([{"name": "add", "arguments": "[" * 100_000}], "no JSON"),
    ],
)
def test_malformed_calls(calls, words):
    with pytest.raises(RequestError, match=words) as raised:
        plain_message(3, {"role": "assistant", "tool_calls": calls})
    assert raised.value.field == "messages"
    assert "message 3" in str(raised.value)


@pytest.mark.parametrize("message", ["hi", {}, {"role": 1, "content": ""}, {"role": "user"}])
def test_what_is_no_message(message):
    with pytest.raises(RequestError, match="message 2"):
        check_message(2, message)
