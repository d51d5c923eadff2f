"""Tokenizer, text streams and chat template as Python sees them: types, typed errors, threads."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.vocabularies import smollm2, write_gguf_vocabulary

from inferlib import _core, errors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return smollm2(tmp_path_factory.mktemp("smollm2"))


def test_ids_are_int32_and_any_sequence_decodes(tokenizer: Any) -> None:
    ids = tokenizer.encode("Hello, world")
    assert ids.dtype == np.int32
    assert ids.flags.owndata or ids.base is not None
    for same in (ids, ids.tolist(), tuple(ids.tolist()), ids.astype(np.int64), ids[::1]):
        assert tokenizer.decode(same) == "Hello, world"
    assert tokenizer.decode(np.repeat(ids, 2)[::2]) == "Hello, world"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize(
    ("call", "field", "message"),
    [
        (lambda t: t.encode("\ud800"), "text", "lone surrogate"),
        (lambda t: t.encode("x" * (2**26 + 1)), "text", "split it"),
        (lambda t: t.decode([-1]), "token_ids", "-1"),
        (lambda t: t.decode([49_152]), "token_ids", "49152"),
        (lambda t: _core.DecodeStream(t).push(49_152), "token_ids", "49152"),
        (lambda t: _core.TextStreams(t).insert(1, stop=[""]), "stop", r"stop\[0\] is empty"),
        (lambda t: _core.TextStreams(t).insert(1, stop=["x"] * 65), "stop", "65"),
        (lambda t: _core.TextStreams(t).insert(1, stop=["x" * 1025]), "stop", "1,024"),
        (lambda t: _core.TextStreams(t).take_text(3), "key", "3"),
    ],
)
def test_bad_input_names_the_field(tokenizer: Any, call: Any, field: str, message: str) -> None:
    with pytest.raises(errors.RequestError, match=message) as caught:
        call(tokenizer)
    assert caught.value.field == field
    assert tokenizer.decode(tokenizer.encode("still usable")) == "still usable"


def test_streams_advance_together_and_report_stops_and_failures(tokenizer: Any) -> None:
    streams = _core.TextStreams(tokenizer)
    streams.insert(5, stop=["\n\n", "o w"])
    streams.insert(2**63, include_stop=True, stop=["world"])
    ids = tokenizer.encode("Hello world!\n\nmore", add_special=False)
    stopped: dict[int, int] = {}
    for token in ids:
        keys = np.array([5, 2**63, 9], np.uint64)
        stops, failures = streams.advance(keys, np.array([token, token, token], np.int32))
        stopped |= {key: which for key, _, which in stops}
        assert [(key, place, type(error)) for key, place, error in failures] == [
            (9, 2, errors.RequestError)
        ]
    assert stopped == {5: 1, 2**63: 0}
    streams.finish(5)
    assert (streams.take_text(5), streams.take_text(2**63)) == ("Hell", "Hello world")
    assert len(streams) == 2
    assert streams.remove(5)
    assert not streams.remove(5)
    _, failures = streams.advance(np.array([2**63], np.uint64), np.array([-1], np.int32))
    assert failures == []  # this stream has ended


def test_gguf_vocabularies_that_are_damaged(tmp_path: Path) -> None:
    def load(tokens: list[str], **keys: Any) -> Any:
        write_gguf_vocabulary(tmp_path / "x.gguf", tokens, **keys)
        return _core.Tokenizer.from_gguf(_core.Weights.open(tmp_path / "x.gguf"))

    with pytest.raises(errors.UnsupportedModelError, match="nonesuch"):
        load(["a"], model="gpt2", pre="nonesuch", merges=["a a"])
    with pytest.raises(errors.UnsupportedModelError, match="t5"):
        load(["a"], model="t5")
    with pytest.raises(errors.ModelFormatError, match=r"tokenizer\.ggml\.merges"):
        load(["a"], model="gpt2", pre="gpt-2", merges=["a b"])
    with pytest.raises(errors.ModelFormatError, match=r"tokenizer\.ggml\.pre"):
        load(["a"], model="gpt2", pre=7)


def test_tokenizer_config_names_tokens_and_templates() -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "x"}
    tokens, templates = _core.read_tokenizer_config(json.dumps(config).encode())
    assert tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert templates == {"default": "x"}
    with pytest.raises(errors.ModelFormatError, match="tokenizer_config"):
        _core.read_tokenizer_config(b"{")


def test_template_errors_have_a_line() -> None:
    with pytest.raises(errors.TemplateError, match="line 2") as caught:
        _core.ChatTemplate("\n{% if %}")
    assert caught.value.line == 2
    template = _core.ChatTemplate("{{ raise_exception('no') }}")
    with pytest.raises(errors.TemplateError, match="no"):
        template.render([])
    endless = _core.ChatTemplate(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(errors.TemplateError, match="too many steps"):
        endless.render([])


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"x": float("nan")}, {"x": 2**64}, {"x": b"y"}, {"x": "\ud800"}]
)
def test_messages_that_have_no_json_form(value: Any) -> None:
    template = _core.ChatTemplate("{{ messages }}")
    with pytest.raises(errors.RequestError, match="messages"):
        template.render([value])
    nested: Any = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(errors.RequestError, match="nested"):
        template.render(nested)


def test_long_calls_leave_the_interpreter_to_other_threads(tokenizer: Any) -> None:
    text = "word and other words " * 100_000
    with ThreadPoolExecutor(2) as pool:
        job = pool.submit(tokenizer.encode, text)
        steps = 0
        while not job.done():
            steps += 1
            time.sleep(0)
        ids = job.result()
    assert steps > 10
    assert tokenizer.decode(ids) == text


def test_one_tokenizer_serves_many_threads(tokenizer: Any) -> None:
    texts = [f"Text number {number} is é🙂 {number * 7}" for number in range(200)]
    expected = [tokenizer.encode(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [ids.tolist() for ids in pool.map(tokenizer.encode, texts)] == expected
