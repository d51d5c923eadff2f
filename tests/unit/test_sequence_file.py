"""Sequences in files: they come back bit for bit, only to their model, and nothing hostile does."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import safetensors.numpy
from tests.checkpoints import TINY

from inferlib import (
    Model,
    ModelError,
    RequestError,
    SequenceFileError,
    SequenceMismatchError,
)
from inferlib.testing import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 250 for i in range(45)]
SMALL = [token % 150 for token in PROMPT]
GREEDY = {"temperature": 0, "ignore_eos": True, "logprobs": 2}
OPTIONS = {"max_position_embeddings": 512, "kv_cache": "1k tokens"}


@pytest.fixture(scope="module")
def model():
    with tiny_model(**OPTIONS) as model:
        yield model


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "story.safetensors"
    with model.prefill(PROMPT) as sequence:
        sequence.save(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    return path


def parts(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("kv_cache_dtype", ["f16", "bf16", "int8", "f32"])
def test_a_sequence_comes_back_without_being_computed(kv_cache_dtype, tmp_path):
    path = tmp_path / "story"
    with tiny_model(**OPTIONS, kv_cache_dtype=kv_cache_dtype) as model:
        sequence = model.prefill(PROMPT)
        sequence.generate(max_tokens=7, **GREEDY)
        sequence.save(path)
        token_ids = sequence.token_ids
        expected = sequence.generate(max_tokens=20, **GREEDY)
    with tiny_model(**OPTIONS, kv_cache_dtype=kv_cache_dtype, speculation="off") as model:
        with model.load_sequence(path) as sequence:
            assert (sequence.token_ids, sequence.num_computed_tokens) == (token_ids, 52)
            (fork,) = sequence.fork()
            completion = fork.generate(max_tokens=20, **GREEDY)
            assert completion.token_ids == expected.token_ids
            assert completion.logprobs == expected.logprobs
            assert model.stats()["scheduled_tokens"] == 20
            fork.close()
        stats = model.stats()
        assert (stats["cached_blocks"], stats["used_blocks"]) == (0, 0)


def test_asynchronous_twins_save_and_load_the_same(model, tmp_path, saved):
    async def run():
        async with asyncio.timeout(30):
            sequence = await model.aload_sequence(saved)
            await sequence.asave(tmp_path / "again")
            sequence.close()

    asyncio.run(run())
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_files_are_read_by_others(saved):
    tensors = safetensors.numpy.load_file(saved)
    assert tensors["token_ids"].tolist() == PROMPT
    assert tensors["kv.0.k"].shape == tensors["kv.0.v"].shape == (2, 45, 2, 16)
    assert tensors["kv.0.k"].dtype == np.float16
    assert np.isfinite(tensors["kv.0.k"]).all()
    assert np.abs(tensors["kv.0.k"]).max() > 0


def test_real_checkpoints_are_identified_by_their_content(tmp_path):
    path = tmp_path / "story"
    with Model.from_pretrained(TINY / "gemma3") as model, model.prefill(SMALL) as sequence:
        sequence.save(path)
    with Model.from_pretrained(TINY / "gemma3") as model, model.load_sequence(path) as sequence:
        expected = model.generate(SMALL, max_tokens=5, **GREEDY)
        assert sequence.generate(max_tokens=5, **GREEDY).logprobs == expected.logprobs
    with Model.from_pretrained(TINY / "llama") as model:
        with pytest.raises(SequenceMismatchError) as caught:
            model.load_sequence(path)
        assert caught.value.field == "weights"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("weights", {"seed": 1}),
        ("precision", {"precision": "balanced"}),
        ("kv_cache_dtype", {"kv_cache_dtype": "int8"}),
    ],
)
def test_another_model_refuses_and_names_what_differs(saved, field, options):
    with tiny_model(**OPTIONS, **options) as other:
        with pytest.raises(SequenceMismatchError) as caught:
            other.load_sequence(saved)
        error = caught.value
        assert (error.field, error.path) == (field, str(saved))
        assert error.expected != error.found
        assert error.hint


def test_another_arithmetic_is_refused(model, saved):
    header, data = parts(saved)
    header["__metadata__"]["arithmetic"] = "cpu-0"
    write(saved, header, data)
    with pytest.raises(SequenceMismatchError) as caught:
        model.load_sequence(saved)
    assert (caught.value.field, caught.value.found) == ("arithmetic", "cpu-0")


def test_a_model_with_less_room_keeps_the_tokens(saved):
    with tiny_model(max_position_embeddings=64, kv_cache="64 tokens") as small:
        expected = small.generate(PROMPT, max_tokens=5, **GREEDY)
        stream = small.stream([3, 4] * 10, max_tokens=30, **GREEDY)
        next(stream)
        with small.load_sequence(saved) as sequence:
            assert (len(sequence), sequence.num_computed_tokens) == (45, 0)
            list(stream)
            assert sequence.generate(max_tokens=5, **GREEDY).logprobs == expected.logprobs
    smaller = tiny_model(max_position_embeddings=32)
    with smaller, pytest.raises(SequenceFileError, match="holds 45 tokens"):
        smaller.load_sequence(saved)


def change(header, data):
    def metadata(**values):
        return {**header, "__metadata__": {**header["__metadata__"], **values}}, data

    def tensor(name, **values):
        return {**header, name: {**header[name], **values}}, data

    first = header["token_ids"]
    yield "an empty header", ({}, data)
    yield "a list", ([], data)
    yield "no metadata", ({k: v for k, v in header.items() if k != "__metadata__"}, data)
    yield "metadata of a text", ({**header, "__metadata__": "x"}, data)
    yield "another format", metadata(format="pt")
    yield "more computed than there are", metadata(num_computed="46")
    yield "fewer computed than there are", metadata(num_computed="44")
    yield "computed below nothing", metadata(num_computed="-1")
    yield "no number", metadata(num_computed=None)
    yield "a huge number", metadata(num_computed="9" * 5000)
    yield "many tokens", tensor("token_ids", shape=[2**62])
    yield "tokens of no number", tensor("token_ids", shape=["a"])
    yield "a scalar", tensor("token_ids", shape=[])
    yield "true", tensor("token_ids", shape=[True])
    yield "another type", tensor("kv.0.k", dtype="F32")
    yield "an overlap", tensor("kv.0.v", data_offsets=first["data_offsets"])
    yield "a gap", tensor("kv.0.v", data_offsets=[2**40, 2**41])
    yield "another tensor", ({**header, "kv.1.k": header["kv.0.k"]}, data)
    yield "no tensor", ({k: v for k, v in header.items() if k != "kv.0.v"}, data)
    yield "the end is missing", (header, data[:-1])
    yield "something more", (header, data + b"x")
    yield "a flipped bit", (header, data[:-1] + bytes([data[-1] ^ 1]))
    yield "another token", (header, bytes([data[0] ^ 1]) + data[1:])


def test_hostile_and_damaged_files_are_refused(model, saved, tmp_path):
    bad = tmp_path / "bad"
    names = []
    for name, (header, data) in change(*parts(saved)):
        write(bad, header, data)
        with pytest.raises(SequenceFileError) as caught:
            model.load_sequence(bad)
        assert caught.value.path == str(bad), name
        names.append(name)
    assert len(names) == 23
    whole = saved.read_bytes()
    for data in (
        b"",
        b"\0" * 7,
        b"\xff" * 64,
        whole[:100],
        (2**63).to_bytes(8, "little") + whole[8:],
        (8).to_bytes(8, "little") + b"[" * 8,
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
    ):
        bad.write_bytes(data)
        with pytest.raises(SequenceFileError):
            model.load_sequence(bad)
    with pytest.raises(FileNotFoundError):
        model.load_sequence(tmp_path / "missing")
    assert model.stats()["held_sequences"] == 0


def test_token_ids_that_the_model_does_not_have_are_refused(model, saved):
    from inferlib.sequence_file import _digest

    header, data = parts(saved)
    data = (10**6).to_bytes(4, "little") + data[4:]
    header["__metadata__"]["digest"] = _digest(
        [np.frombuffer(data, np.uint8)]  # the pieces' joined bytes
    )
    write(saved, header, data)
    with pytest.raises(SequenceFileError, match="token ids"):
        model.load_sequence(saved)


def test_saving_computes_what_was_evicted_and_refuses_an_empty_sequence(tmp_path):
    with tiny_model(max_position_embeddings=128, kv_cache="128 tokens") as model:
        first, second = (model.prefill([i, *PROMPT, *PROMPT]) for i in range(2))
        assert first.num_computed_tokens == 0
        first.save(tmp_path / "first")
        assert first.num_computed_tokens == 91
        first.close()
        with model.load_sequence(tmp_path / "first") as again:
            assert again.token_ids == [0, *PROMPT, *PROMPT]
        second.rewind(91)
        with pytest.raises(RequestError, match="empty"):
            second.save(tmp_path / "second")
        second.close()


def test_a_checkpoint_that_changed_since_it_was_loaded_is_not_identified(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (TINY / "llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with Model.from_pretrained(folder, mmap=False) as model, model.prefill(SMALL) as sequence:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes() + b"\0")
        with pytest.raises(ModelError, match="changed"):
            sequence.save(tmp_path / "story")
