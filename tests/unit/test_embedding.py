"""``embed``: pooling, options, limits, errors; what an encoder cannot do."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.encoders import cosine

from inferlib import (
    ClosedError,
    InferlibError,
    Model,
    ModelFormatError,
    PromptTooLongError,
    RequestError,
    UnsupportedModelError,
)
from inferlib.embedding_config import read_embedding_config
from inferlib.pooling import first_row
from inferlib.testing import tiny_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "##s", "sat", "query", ":"]
TEXTS = ["cats sat", "dog", "cat dog cats dogs sat"]


def encoder_folder(path, case="bert-embedding", files=None):
    """A golden encoder with a vocabulary and the files of sentence-transformers."""
    shutil.copytree(TINY / case, path)
    words = [*WORDS, *(f"[unused{i}]" for i in range(160 - len(WORDS)))]
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    for name, value in (files or {}).items():
        file = path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def modules(*kinds):
    names = {"Transformer": "", "Pooling": "1_Pooling"}
    return [
        {"type": f"sentence_transformers.models.{kind}", "path": names.get(kind, f"2_{kind}")}
        for kind in kinds
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = encoder_folder(
        tmp_path_factory.mktemp("encoder") / "model",
        files={
            "modules.json": modules("Transformer", "Pooling", "Normalize"),
            "1_Pooling/config.json": {"pooling_mode_cls_token": True},
            "sentence_bert_config.json": {"max_seq_length": 32},
            "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
        },
    )
    with Model.from_pretrained(path, device="cpu", precision="exact") as model:
        yield model


def test_pooling_is_what_it_says():
    with tiny_model() as model:
        rows = model.forward("the text", capture="ln_final")["ln_final"]
        expected = {
            "cls": rows[0],
            "last": rows[-1],
            "max": rows.max(axis=0),
            "mean": rows.mean(axis=0, dtype=np.float64).astype(np.float32),
        }
        for pooling, vector in expected.items():
            found = model.embed("the text", pooling=pooling, normalize=False)
            assert (found == vector).all(), pooling
    assert [first_row(pooling, 4) for pooling in ("cls", "mean", "max", "last")] == [0, 0, 0, 3]


def test_a_vector_is_cut_and_then_normalised():
    with tiny_model() as model:
        plain = model.embed("cat", normalize=False)
        assert (model.embed("cat", normalize=False, dimensions=5) == plain[:5]).all()
        found = model.embed("cat", normalize=True, dimensions=5)
        assert np.allclose(found, plain[:5] / np.linalg.norm(plain[:5]), rtol=1e-6)


def test_micro_batches_change_no_bit(tmp_path):
    path = encoder_folder(tmp_path / "model")
    rng = np.random.default_rng(1)
    # One step holds some two dozen of them: two threads can share those out evenly.
    texts = [rng.integers(5, 11, length).tolist() for length in rng.integers(3, 40, 80)]
    vectors = []
    for threads in (1, 2, 3):
        with Model.from_pretrained(path, device="cpu", threads=threads) as model:
            vectors.append(model.embed(texts, normalize=False))
            for index in (0, 41, 79):
                assert (model.embed(texts[index], normalize=False) == vectors[-1][index]).all()
    assert (vectors[0] == vectors[1]).all()
    assert (vectors[0] == vectors[2]).all()


def test_the_checkpoint_says_how_vectors_are_made(model):
    found = model.embed(TEXTS)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    plain = model.embed(TEXTS, pooling="cls", normalize=False)
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-2)
    assert cosine(found, plain).min() > 1 - 1e-12
    assert cosine(found, model.embed(TEXTS, pooling="mean")).min() < 0.999


def test_shapes(model):
    assert model.embed(TEXTS).shape == (3, 64)
    assert model.embed("cat").shape == (64,)
    assert model.embed([]).shape == (0, 64)
    assert model.embed(TEXTS, dimensions=16).shape == (3, 16)
    assert np.allclose(np.linalg.norm(model.embed(TEXTS, dimensions=16), axis=1), 1, atol=1e-6)


def test_words_special_tokens_and_token_ids(model):
    assert model.tokenizer.encode("Cats sat").tolist() == [2, 5, 7, 8, 3]
    assert (model.embed("cats sat") == model.embed([2, 5, 7, 8, 3])).all()


def test_prompts_by_name(model):
    named = model.embed("cat", prompt_name="query")
    assert (named == model.embed("query: cat")).all()
    assert not (named == model.embed("cat")).all()
    with pytest.raises(RequestError, match="'query'") as caught:
        model.embed("cat", prompt_name="document")
    assert caught.value.field == "prompt_name"


def test_a_text_that_is_too_long_is_refused_or_cut(model):
    assert model.max_model_len == 32
    long = "cat " * 40
    with pytest.raises(PromptTooLongError, match="42 tokens but the model reads 32") as caught:
        model.embed(["cat", long])
    assert (caught.value.field, "truncate=True" in caught.value.hint) == ("texts", True)
    cut = model.embed(long, truncate=True)
    assert (cut == model.embed("cat " * 30)).all()  # the last special token stays
    assert (model.embed([5] * 50, truncate=True) == model.embed([5] * 32)).all()


def test_a_longer_context_may_be_asked_for(tmp_path):
    files = {
        "modules.json": modules("Transformer"),
        "sentence_bert_config.json": {"max_seq_length": 32},
    }
    path = encoder_folder(tmp_path / "model", files=files)
    with Model.from_pretrained(path, device="cpu", max_model_len=256) as model:
        assert model.embed("cat " * 200).shape == (64,)
    with Model.from_pretrained(path, device="cpu", max_num_batched_tokens=20) as model:
        assert model.max_model_len == 20
    with (
        Model.from_pretrained(
            path, device="cpu", max_num_batched_tokens=20, max_model_len=256
        ) as model,
        pytest.raises(PromptTooLongError, match="max_num_batched_tokens"),
    ):
        model.embed("cat " * 30)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("texts", {"texts": 5}),
        ("texts", {"texts": ["cat", 5.5]}),
        ("texts", {"texts": ["cat", [1.5]]}),
        ("texts", {"texts": "\ud800"}),
        ("texts", {"texts": {"cat"}}),
        ("pooling", {"pooling": "median"}),
        ("normalize", {"normalize": "yes"}),
        ("dimensions", {"dimensions": 0}),
        ("dimensions", {"dimensions": 65}),
        ("dimensions", {"dimensions": 1.5}),
        ("priority", {"priority": "high"}),
        ("tenant", {"tenant": 3}),
        ("progress", {"progress": "on"}),
        ("prompt", {"texts": [[1, 200]]}),
    ],
)
def test_bad_input_names_its_field(model, field, options):
    with pytest.raises(RequestError) as caught:
        model.embed(**{"texts": ["cat"], **options})
    assert caught.value.field == field


def test_an_encoder_generates_nothing_and_says_what_to_call(model):
    for call in (
        lambda: model.generate("cat"),
        lambda: next(iter(model.stream("cat"))),
        lambda: model.prefill("cat"),
        lambda: model.choose("cat", ["dog", "cat"]),
        lambda: model.loglikelihood("cat", "dog"),
    ):
        with pytest.raises(RequestError, match="generates nothing") as caught:
            call()
        assert "embed" in caught.value.hint


def test_a_model_without_a_classifier_says_so(model):
    for call in (lambda: model.classify("cat"), lambda: model.rerank("cat", ["dog"])):
        with pytest.raises(RequestError, match="no classifier"):
            call()


def test_nothing_is_kept_of_a_text(model):
    before = model.stats()
    model.embed(TEXTS * 100)
    after = model.stats()
    assert after["used_blocks"] == before["used_blocks"] == 0
    assert after["running_sequences"] == after["waiting_requests"] == 0


def test_any_decoder_embeds():
    with tiny_model() as model:
        last = model.embed(["hello", "world"])
        mean = model.embed(["hello", "world"], pooling="mean", normalize=True)
        assert last.shape == mean.shape
        assert (last == model.embed(["hello", "world"], pooling="last", normalize=False)).all()
        assert np.allclose(np.linalg.norm(mean, axis=1), 1, atol=1e-6)
        assert model.generate("hello", max_tokens=2).text


def test_the_asynchronous_twin(model):
    async def several():
        return await asyncio.gather(*(model.aembed(TEXTS) for _ in range(4)))

    expected = model.embed(TEXTS)
    for found in asyncio.run(several()):
        assert (found == expected).all()


def test_a_cancelled_call_leaves_nothing_behind(model):
    async def cancelled():
        task = asyncio.create_task(model.aembed(TEXTS * 500))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert (model.embed("cat") == model.embed(["cat"])[0]).all()
    assert model.stats()["running_sequences"] == 0


def test_a_closed_model(tmp_path):
    model = Model.from_pretrained(encoder_folder(tmp_path / "model"), device="cpu")
    model.close()
    with pytest.raises(ClosedError):
        model.embed("cat")


def test_progress_names_the_call(model, capsys, monkeypatch):
    monkeypatch.setattr("inferlib.progress.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("inferlib.progress.time.monotonic", iter(range(10_000)).__next__)
    model.embed(["cat"] * 5, progress=True)
    assert "embed  5/5" in capsys.readouterr().err


def test_damaged_weights_give_an_error_not_a_vector(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = encoder_folder(tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    weights["encoder.layer.2.output.LayerNorm.bias"][3] = np.nan
    (path / "model.safetensors").unlink()
    save_file(weights, path / "model.safetensors")
    with (
        Model.from_pretrained(path, device="cpu") as model,
        pytest.raises(InferlibError, match="not numbers"),
    ):
        model.embed("cat")


# Files of sentence-transformers


def config_of(tmp_path, files):
    for name, value in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_embedding_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
    ],
)
def test_kinds_of_pooling(tmp_path, config, expected):
    files = {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": config}
    assert config_of(tmp_path, files).pooling == expected


def test_a_folder_without_such_files_says_nothing(tmp_path):
    config = read_embedding_config(tmp_path)
    assert (config.pooling, config.normalize, config.max_seq_length) == (None, False, None)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"modules.json": modules("Transformer", "Dense")}, "'Dense'"),
        (
            {
                "modules.json": modules("Pooling"),
                "1_Pooling/config.json": {
                    "pooling_mode_mean_tokens": True,
                    "pooling_mode_cls_token": True,
                },
            },
            "pooling_mode_mean_tokens, pooling_mode_cls_token",
        ),
        (
            {
                "modules.json": modules("Pooling"),
                "1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True},
            },
            "weightedmean",
        ),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, files, what):
    with pytest.raises(UnsupportedModelError, match=what):
        config_of(tmp_path, files)


@pytest.mark.parametrize(
    "files",
    [
        {"modules.json": "{}"},
        {"modules.json": "[1]"},
        {"modules.json": "["},
        {"modules.json": [{"type": "x.Pooling", "path": "../../etc"}]},
        {
            "modules.json": modules("Transformer"),
            "sentence_bert_config.json": {"max_seq_length": 0},
        },
        {"config_sentence_transformers.json": {"prompts": {"query": 5}}},
        {"config_sentence_transformers.json": {"default_prompt_name": "query"}},
    ],
)
def test_malformed_files_are_refused(tmp_path, files):
    with pytest.raises(ModelFormatError):
        config_of(tmp_path, files)


def test_a_vocabulary_without_its_special_tokens_is_refused(tmp_path):
    path = encoder_folder(tmp_path / "model", files={"vocab.txt": "cat\ndog\n"})
    with pytest.raises(ModelFormatError, match="unk_token"):
        Model.from_pretrained(path, device="cpu")


def test_a_vocabulary_of_words_is_read_as_tokenizers_reads_it(tmp_path):
    """The same pipeline as transformers makes of ``vocab.txt``."""
    import tokenizers

    path = encoder_folder(tmp_path / "model")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    reference = tokenizers.BertWordPieceTokenizer(str(path / "vocab.txt"), lowercase=True)
    with Model.from_pretrained(path, device="cpu") as model:
        for text in ("Cats, dogs: SAT!", "", "a cat\tsat", "[CLS] cat [SEP]", "caté 狗 dog"):
            assert model.tokenizer.encode(text).tolist() == reference.encode(text).ids, text
            pair = reference.encode(text, "dogs")
            ids, second, _ = model.tokenizer.encode_segments(text, "dogs")
            assert ids.tolist() == pair.ids
            assert second == pair.type_ids.index(1)


def test_an_encoder_says_what_it_took(tmp_path, caplog):
    with (
        caplog.at_level(logging.INFO, "inferlib"),
        Model.from_pretrained(encoder_folder(tmp_path / "model"), device="cpu") as model,
    ):
        assert "context 256" in caplog.text
        assert "context 256" in repr(model)
