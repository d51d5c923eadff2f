"""``tokenizer.json`` and GGUF vocabularies against the Python package ``tokenizers``.

The pipelines are those of real models; the vocabularies are trained here, on the golden texts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vocabularies import TEXT, write_gguf_vocabulary
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from inferlib import _core

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = "<unk>"
FILES = ("prose.txt", "english.txt", "multilingual.txt", "code.txt")
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def lines() -> list[str]:
    return [line for file in FILES for line in (TEXT / file).read_text("utf-8").split("\n")]


def texts() -> list[str]:
    edge_cases: list[str] = json.loads((TEXT / "edge_cases.json").read_text())
    return [*lines(), *edge_cases, "<s>[INST] hi</s>", " <|end|>x", "<|end|>"]


def byte_level(pre_tokenizer: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<s>", "</s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


def split(pattern: str) -> Any:
    isolated = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([isolated, pre_tokenizers.ByteLevel(False, use_regex=False)])  # noqa: FBT003


def gpt2() -> tokenizers.Tokenizer:
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def smollm() -> tokenizers.Tokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return byte_level(
        pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    )


def llama3() -> tokenizers.Tokenizer:
    tokenizer = byte_level(split(LLAMA3))
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), begin]
    )
    return tokenizer


def qwen2() -> tokenizers.Tokenizer:
    return byte_level(split(QWEN2))


def sentence_piece(scheme: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(
        models.BPE(unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps + strip)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    # The trainer makes all of them special; byte tokens are not.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def llama2() -> tokenizers.Tokenizer:
    return sentence_piece("first")


def gemma() -> tokenizers.Tokenizer:
    return sentence_piece("never")


def unigram() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "</s>"], unk_token=UNKNOWN, show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


def word_piece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


PIPELINES = [gpt2, smollm, llama3, qwen2, llama2, gemma, unigram, word_piece]


@pytest.fixture(scope="module", params=PIPELINES, ids=lambda make: make.__name__)
def pair(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, Any]:
    """The package's tokenizer and ours, of one file."""
    theirs = request.param()
    return theirs, _core.Tokenizer.from_json(theirs.to_str().encode())


def test_ids_and_texts_are_those_of_the_package(pair: tuple[tokenizers.Tokenizer, Any]) -> None:
    theirs, ours = pair
    for text in texts():
        for add_special in (False, True):
            expected = theirs.encode(text, add_special_tokens=add_special).ids
            assert ours.encode(text, add_special=add_special).tolist() == expected, text
        ids = ours.encode(text)
        for skip_special in (False, True):
            whole = theirs.decode(ids.tolist(), skip_special_tokens=skip_special)
            assert ours.decode(ids, skip_special=skip_special) == whole, text
            stream = _core.DecodeStream(ours, skip_special=skip_special)
            streamed = "".join([*(stream.push(token) for token in ids.tolist()), stream.finish()])
            assert streamed == whole
    assert ours.vocab_size == theirs.get_vocab_size()
    for token, token_id in theirs.get_vocab().items():
        assert ours.token_to_id(token) == token_id
        assert ours.id_to_token(token_id) == token


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60))
def test_ids_of_any_text(pair: tuple[tokenizers.Tokenizer, Any], text: str) -> None:
    theirs, ours = pair
    assert ours.encode(text).tolist() == theirs.encode(text).ids


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_ids_decode_as_they_stream(pair: tuple[tokenizers.Tokenizer, Any], seed: int) -> None:
    _, ours = pair
    ids = np.random.default_rng(seed).integers(0, ours.vocab_size, 30).tolist()
    for skip_special in (False, True):
        stream = _core.DecodeStream(ours, skip_special=skip_special)
        streamed = "".join([*(stream.push(token) for token in ids), stream.finish()])
        assert streamed == ours.decode(ids, skip_special=skip_special)


def token_types(theirs: tokenizers.Tokenizer, tokens: list[str]) -> list[int]:
    special = {token.content for token in theirs.get_added_tokens_decoder().values()}
    is_byte = {f"<0x{byte:02X}>" for byte in range(256)}
    return [3 if token in special else 6 if token in is_byte else 1 for token in tokens]


@pytest.mark.parametrize(
    ("make", "pre"), [(gpt2, "gpt-2"), (smollm, "smollm"), (llama3, "dbrx"), (qwen2, "qwen2")]
)
def test_a_byte_level_gguf_gives_the_ids_of_its_tokenizer_json(
    make: Any, pre: str, tmp_path: Path
) -> None:
    theirs = make()
    by_id = sorted(theirs.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in by_id]
    merges = [" ".join(pair) for pair in json.loads(theirs.to_str())["model"]["merges"]]
    path = tmp_path / "vocabulary.gguf"
    types = token_types(theirs, tokens)
    keys = {"model": "gpt2", "pre": pre, "merges": merges, "token_type": types}
    write_gguf_vocabulary(path, tokens, **keys)
    ours = _core.Tokenizer.from_gguf(_core.Weights.open(path))
    for text in texts():
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special=False).tolist() == expected, text
        assert ours.decode(expected) == theirs.decode(expected), text


@pytest.mark.parametrize(("make", "prefix"), [(llama2, True), (gemma, False)])
def test_a_sentence_piece_gguf_gives_the_ids_of_its_tokenizer_json(
    make: Any,
    prefix: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    theirs = make()
    by_id = sorted(theirs.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in by_id]
    # Merges in order of rank make tokens in order of id: the score is minus the id.
    path = tmp_path / "vocabulary.gguf"
    write_gguf_vocabulary(
        path,
        tokens,
        model="llama",
        scores=[float(-token_id) for _, token_id in by_id],
        token_type=token_types(theirs, tokens),
        unknown_token_id=0,
        bos_token_id=1,
        add_space_prefix=prefix,
    )
    ours = _core.Tokenizer.from_gguf(_core.Weights.open(path))
    for text in texts():
        if "<s>" in text or "</s>" in text or (prefix and text.startswith((" ", "▁"))):
            continue  # the space prefix differs: `first` and "unless there is one" are the crate's
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special=False).tolist() == expected, text
        assert ours.decode(expected) == theirs.decode(expected), text
