"""``Model.chat`` with tools and reasoning: whole, streamed, and into the next turn."""

from __future__ import annotations

import json

import pytest
from tests.unit import fakes
from tests.unit.fakes import EOS, assert_idle, fake_model

from inferlib import MalformedToolCall, ToolCall
from inferlib.cli.chat import Conversation
from inferlib.errors import RequestError

ANSWER = (
    "<think>\nA sum 🌊.\n</think>\n\nI add.\n"
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
)
MESSAGES = [{"role": "user", "content": "hi"}]
TEMPLATE = "… <think> … <tool_call> …"


def add(a: int, b: str) -> str:
    """Add."""
    return f"{a}{b}"


@pytest.fixture
def says(monkeypatch):
    """A model that answers with a given text."""
    models = []

    def make(text, **options):
        monkeypatch.setattr(fakes, "continuation", lambda *_: text.encode() + bytes(1000))
        model = fake_model(**{"chat_template_text": TEMPLATE} | options)
        model.executor.eos_after = len(text.encode())
        models.append(model)
        return model

    yield make
    for model in models:
        assert_idle(model)
        model.close()


def test_calls_and_reasoning_are_taken_out_of_the_text(says):
    completion = says(ANSWER).chat(MESSAGES, tools=[add])
    assert completion.text == "I add."
    assert completion.reasoning == "A sum 🌊."
    assert [(call.name, call.arguments) for call in completion.tool_calls] == [
        ("add", {"a": 1, "b": "é"})
    ]
    assert completion.finish_reason == "tool_calls"
    assert completion.outputs[0].raw_text == ANSWER
    assert completion.token_ids[-1] == EOS
    assert "calling tools" in completion.explain()
    assert add(**completion.tool_calls[0].arguments) == "1é"


def test_the_answer_goes_into_the_next_turn(says):
    model = says(ANSWER)
    message = model.chat(MESSAGES, tools=[add]).to_message()
    call = message["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"a": 1, "b": "é"}
    assert message["reasoning_content"] == "A sum 🌊."
    result = {"role": "tool", "tool_call_id": call["id"], "content": "1é"}
    completion = model.chat([*MESSAGES, message, result], tools=[add])
    assert "[assistant]I add.[tool]1é" in completion.prompt
    assert completion.tool_calls[0].id != call["id"]  # another turn
    json.dumps(completion.to_dict())


@pytest.mark.parametrize("tokens_per_step", [1, 7])
def test_deltas_say_what_they_are(says, tokens_per_step):
    model = says(ANSWER, tokens_per_step=tokens_per_step)
    stream = model.stream_chat(MESSAGES, tools=[add], n=2, logprobs=0)
    deltas = list(stream)
    for index in range(2):
        mine = [delta for delta in deltas if delta.index == index]
        output = stream.completion.outputs[index]
        assert "".join(delta.text for delta in mine) == output.text == "I add."
        assert "".join(delta.reasoning for delta in mine) == output.reasoning
        assert [call for delta in mine for call in delta.tool_calls] == output.tool_calls
        assert [i for delta in mine for i in delta.token_ids] == output.token_ids
        assert [delta.finish_reason for delta in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == output.finish_reason == "tool_calls"
        assert all(len(delta.logprobs) == len(delta.token_ids) for delta in mine)
        assert all(delta.text or delta.reasoning or delta.tool_calls for delta in mine[:-1])


def test_a_malformed_call_is_text_and_a_note(says):
    text = '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'
    model = says(text)
    completion = model.chat(MESSAGES, tools=[add])
    assert completion.text == text
    assert completion.finish_reason == "stop"
    (note,) = completion.malformed_tool_calls
    assert isinstance(note, MalformedToolCall)
    assert note.problem == "no_arguments"
    deltas = list(model.stream_chat(MESSAGES, tools=[add]))
    assert [note for delta in deltas for note in delta.malformed_tool_calls] == [note]
    assert "".join(delta.text for delta in deltas) == text


def test_without_tools_calls_are_text(says):
    completion = says(ANSWER).chat(MESSAGES)
    assert completion.tool_calls == []
    assert "<tool_call>" in completion.text
    assert completion.reasoning == "A sum 🌊."
    named = says(ANSWER).chat(MESSAGES, tool_syntax="hermes")
    assert len(named.tool_calls) == 1


def test_both_can_be_switched_off(says):
    options = {"tool_syntax": "off", "reasoning_syntax": "off"}
    completion = says(ANSWER).chat(MESSAGES, tools=[add], **options)
    assert completion.text == ANSWER
    assert completion.outputs[0].raw_text is None
    assert completion.reasoning is None


def test_another_syntax_than_the_templates(says):
    model = says('{"name": "add", "parameters": {"a": 1}}', chat_template_text="nothing")
    assert model.chat(MESSAGES, tools=[add]).tool_calls == []
    assert model.chat(MESSAGES, tools=[add], tool_syntax="llama").tool_calls[0].name == "add"


def test_generate_takes_nothing_apart(says):
    assert says(ANSWER).generate("hi").text == ANSWER


def test_a_message_that_broke_off_in_its_reasoning(says):
    model = says("m\n</think>\n\nYes")
    messages = [*MESSAGES, {"role": "assistant", "content": "<think>\nh"}]
    completion = model.chat(messages, continue_final_message=True)
    assert (completion.reasoning, completion.text) == ("m", "Yes")


@pytest.mark.parametrize("name", ["tool_syntax", "reasoning_syntax"])
@pytest.mark.parametrize("value", ["xml", None, 7])
def test_unknown_syntaxes(says, name, value):
    with pytest.raises(RequestError, match="auto") as raised:
        says("").chat(MESSAGES, **{name: value})
    assert raised.value.field == name


def test_the_command_line_shows_reasoning_but_does_not_remember_it(says, capsys):
    conversation = Conversation(says(ANSWER), {}, system=None, timings=False)
    conversation._answer("hi")
    shown = capsys.readouterr().out
    assert shown.startswith("A sum 🌊.\n\nI add.")
    assert conversation._messages[-1]["content"].startswith("I add.")


def test_what_a_call_looks_like():
    call = ToolCall(name="add", arguments={"a": 1}, id="x", raw_text="…")
    assert repr(call) == "ToolCall(add(a=1), id='x')"
    assert call.to_dict()["function"] == {"name": "add", "arguments": '{"a": 1}'}
