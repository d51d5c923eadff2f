"""Token ids equal those of Hugging Face tokenizers (texts) and llama.cpp (random strings)."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from tests.real_models import real_model
from tests.vocabularies import TEXT, smollm2

from inferlib import _core


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer and its name in the golden files."""
    if request.param == "smollm2":
        return "smollm2", smollm2(tmp_path_factory.mktemp("smollm2"))
    return "gemma", _core.Tokenizer.from_gguf(_core.Weights.open(real_model("gemma")))


def cases(name: str) -> list[tuple[str, list[int]]]:
    """All golden texts with their ids."""
    ids = json.loads((TEXT / f"ids_{name}.json").read_text())
    pairs = []
    for file, lines in ids["lines"].items():
        texts = (TEXT / file).read_text(encoding="utf-8").split("\n")
        pairs += zip(texts, lines, strict=True)
    edge_cases = json.loads((TEXT / "edge_cases.json").read_text())
    pairs += zip(edge_cases, ids["edge"], strict=True)
    random = json.loads(gzip.decompress((TEXT / "random_strings.json.gz").read_bytes()))
    pairs += zip(random["strings"], random[name], strict=True)
    assert len(pairs) == 10_350
    return pairs


def streamed(tokenizer: Any, ids: Any, *, skip_special: bool) -> str:
    """The text of a decode stream, piece by piece; no piece ends inside a character."""
    stream = _core.DecodeStream(tokenizer, skip_special=skip_special)
    pieces = [stream.push(token) for token in ids]
    return "".join([*pieces, stream.finish()])


def test_ids_are_the_golden_ones_and_streams_decode_them(tokenizer: Any) -> None:
    name, tokenizer = tokenizer
    for text, expected in cases(name):
        ids = tokenizer.encode(text, add_special=False)
        assert ids.tolist() == expected, text
        whole = tokenizer.decode(ids, skip_special=False)
        # U+2581 is how SentencePiece writes a space: it cannot come back.
        assert whole == (text.replace("▁", " ") if name == "gemma" else text)
        assert streamed(tokenizer, ids.tolist(), skip_special=False) == whole
        skipped = tokenizer.decode(ids, skip_special=True)
        assert streamed(tokenizer, ids.tolist(), skip_special=True) == skipped


def test_any_ids_decode_as_they_stream(tokenizer: Any) -> None:
    name, tokenizer = tokenizer
    rng = np.random.default_rng(0)
    low = 0 if name == "smollm2" else 200  # Gemma's byte tokens begin at 238
    for high in (400, tokenizer.vocab_size):
        for _ in range(300):
            ids = rng.integers(low, high, size=40)
            for skip_special in (False, True):
                whole = tokenizer.decode(ids.tolist(), skip_special=skip_special)
                assert streamed(tokenizer, ids.tolist(), skip_special=skip_special) == whole


def test_special_tokens(tokenizer: Any) -> None:
    name, tokenizer = tokenizer
    expected = {
        "smollm2": (49_152, 1, 2, False, [0, 2], 17),
        "gemma": (262_144, 2, 1, True, [1, 106], 6_249),
    }[name]
    found = tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos
    assert (*found, tokenizer.end_ids, len(tokenizer.special_ids)) == expected
    end = tokenizer.id_to_token(tokenizer.end_ids[-1])
    assert tokenizer.encode(end, add_special=False).tolist() == [tokenizer.end_ids[-1]]
    as_text = tokenizer.encode(end, add_special=False, parse_special=False)
    assert not set(as_text.tolist()) & set(tokenizer.special_ids)
    assert tokenizer.decode(as_text) == end


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "ab" * 150_000, "\n" * 300_000])
def test_long_runs_of_one_kind(tokenizer: Any, text: str) -> None:
    _, tokenizer = tokenizer
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids) == text
