"""What of a model's outputs is read, and with which tokens."""

from __future__ import annotations

from types import SimpleNamespace

from inferlib import SamplingParams, Tokenizer, testing
from inferlib.output_reading import OutputReader
from inferlib.output_syntax import TOOL_SYNTAXES
from inferlib.output_syntax.parser import parse_whole
from inferlib.request import Request

TOOLS = [{"function": {"name": "add", "parameters": {"properties": {"a": {"type": "string"}}}}}]


class FewTokens:
    def __init__(self, *special):
        self.special = special
        self.special_ids = range(len(special))

    def decode(self, token_ids, *, skip_special):
        assert not skip_special
        return "".join(self.special[i] for i in token_ids)


def test_markers_that_are_special_tokens_are_decoded_and_the_others_left_out():
    reader = OutputReader("[TOOL_CALLS]", FewTokens("<s>", "[TOOL_CALLS]", " "))
    reading = reader.reading("p", tools=TOOLS)
    assert reading.with_special_tokens
    parsed = parse_whole(reading, '<s>a b[TOOL_CALLS]add[ARGS]{"a": "<s>"}')
    assert parsed.content == "a b"
    assert parsed.tool_calls[0].arguments == {"a": "<s>"}
    asked = reader.reading("p", tools=TOOLS, skip_special_tokens=False)
    assert parse_whole(asked, "<s>a").content == "<s>a"


def test_markers_that_are_ordinary_text():
    reading = OutputReader("<tool_call>", FewTokens("<s>")).reading("p", tools=TOOLS)
    assert not reading.with_special_tokens
    assert parse_whole(reading, "<s>a").content == "<s>a"  # it was written as text


def test_the_request_says_how_to_decode():
    reader = OutputReader("[TOOL_CALLS]", FewTokens("[TOOL_CALLS]"))

    def skips(output, **params):
        request = Request(
            prompt=None,
            prompt_token_ids=[1],
            params=SamplingParams(**params),
            scheduler_params=SimpleNamespace(),
            output=output,
        )
        return request.skips_special_tokens

    assert skips(None)
    assert not skips(None, skip_special_tokens=False)
    assert not skips(reader.reading("p", tools=TOOLS))


def test_nothing_to_read():
    assert OutputReader(None, None).reading("p", tools=TOOLS) is None
    assert OutputReader("<tool_call>", None).reading("p", tools=None) is None
    assert OutputReader("<tool_call>", None).reading("p", tools=[]) is None


def test_tables_are_made_once_and_both_parts_may_be_one_syntax():
    reader = OutputReader("<|channel|><|message|>", None)
    one = reader.reading("p", tools=TOOLS)
    assert one.tables is reader.reading("q", tools=None).tables
    assert one.tables.regions == TOOL_SYNTAXES["harmony"].regions
    assert one.schemas == {"add": {"a": {"type": "string"}}}


def test_markers_that_are_special_tokens_through_the_real_text_streams(monkeypatch):
    files = [each.replace(b"<|begin|>", b"[THINK]") for each in testing.byte_tokenizer_files()]
    monkeypatch.setattr(testing.tiny, "byte_tokenizer", lambda: Tokenizer.from_json(*files))
    template = "{{ messages[0].content }}{# [THINK] #}"
    options = {"allowed_token_ids": [ord("A"), testing.BOS_ID], "max_tokens": 40, "seed": 3}
    with testing.tiny_model(chat_template=template) as model:
        completion = model.chat([{"role": "user", "content": "x"}], **options)
        deltas = list(model.stream_chat([{"role": "user", "content": "x"}], **options))
        plain = model.generate("x", **options)
    raw = completion.outputs[0].raw_text
    before, marker, after = raw.partition("[THINK]")
    assert marker
    assert (completion.text, completion.reasoning) == (before, after)
    assert "".join(delta.reasoning for delta in deltas) == after
    assert "".join(delta.text for delta in deltas) == before
    assert set(plain.text) == {"A"}
