"""``quantize=``: matrices of a float checkpoint as blocks, what that changes, what it refuses."""

from __future__ import annotations

import logging
import shutil
from typing import get_args

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import ENCODERS, TINY, canonical_weights
from tests.encoders import cosine
from tests.quantized_folders import FORMS, write
from tests.real_models import real_model
from tests.reference import ReferenceExecutor

from inferlib import Model, RequestError
from inferlib.config import Quantization
from inferlib.errors import ModelFormatError
from inferlib.loading import load
from inferlib.quantized import encoders
from inferlib.quantized.encoders import encode, encode_rows

TYPES = [name.upper() for name in get_args(Quantization)]
BLOCK_TYPES = [name for name in TYPES if name != "INT8"]


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_blocks_are_those_of_the_format(dtype):
    random = np.random.default_rng(3)
    values = random.standard_normal((300, 96)).astype(np.float32)
    values[2, :32] = 0
    values[3, :32] = 0.5
    values[4, 32:64] *= 1e-3
    values[5] = np.round(values[5])  # ties, of either sign
    values[6] = np.where(values[6] > 0, 1, -1)
    values[7] = -values[6]
    values[8] *= 1e-7  # scales that are subnormal in float16
    values[9] = np.abs(values[9])
    blocks, squares, errors = encode(dtype, values)
    kind = gguf.GGMLQuantizationType[dtype]
    expected = gguf.quants.quantize(values, kind)
    assert blocks.tobytes() == expected.tobytes()
    exact, restored = values.astype(np.float64), gguf.quants.dequantize(expected, kind)
    assert squares == pytest.approx((exact**2).sum(), rel=1e-5)
    assert errors == pytest.approx(((exact - restored) ** 2).sum(), rel=1e-5)


def test_rows_of_8_bits_have_the_next_scale_that_holds_them():
    random = np.random.default_rng(5)
    values = random.standard_normal((70, 96)).astype(np.float32)
    values[1] = 0
    values[2] = -127
    values[3] *= 1e-6  # scales that are subnormal in float16
    values[4, 40:] *= 1e3
    data, squares, errors = encode_rows(values)
    blocks = data.reshape(70, 3, 34)
    scales = blocks[:, :, :2].copy().view(np.float16)[..., 0].astype(np.float64)
    assert (scales == scales[:, :1]).all()
    exact = np.abs(values).max(axis=1) / np.float32(127)
    below = np.nextafter(scales[:, 0].astype(np.float16), np.float16(0)).astype(np.float64)
    assert (scales[:, 0] >= exact).all()
    assert (below[exact > 0] < exact[exact > 0]).all()
    codes = blocks[:, :, 2:].view(np.int8).reshape(70, 96).astype(np.float64)
    restored = codes * scales[:, :1]
    assert (np.abs(restored - values) <= scales[:, :1] * 0.5001).all()
    assert squares == pytest.approx((values.astype(np.float64) ** 2).sum(), rel=1e-5)
    assert errors == pytest.approx(((restored - values) ** 2).sum(), rel=1e-5)
    empty, *nothing = encode_rows(values[:0])
    assert (empty.size, nothing) == (0, [0.0, 0.0])


def test_many_chunks_and_none_are_one_run_of_blocks(monkeypatch):
    values = np.random.default_rng(4).standard_normal((50, 64)).astype(np.float32)
    whole, *sums = encode("Q5_1", values)
    monkeypatch.setattr(encoders, "_CHUNK", 7)
    parts, *again = encode("Q5_1", values)
    assert whole.tobytes() == parts.tobytes()
    assert again == pytest.approx(sums, rel=1e-5)
    empty, *nothing = encode("Q5_1", values[:0])
    assert (empty.size, nothing) == (0, [0.0, 0.0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_no_scale_is_for_is_refused_by_tensor(dtype, bad, tmp_path):
    shutil.copytree(TINY / "llama", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = weights[name].copy()
    weights[name][1, 40] = bad
    save_file(weights, path)
    with pytest.raises(ModelFormatError, match=f"{name} has numbers that {dtype} cannot hold"):
        load(tmp_path / "model", quantize=dtype.lower())


@pytest.mark.parametrize("case", sorted({"llama", "gemma3", "gpt2", "phi3", *ENCODERS}))
def test_matrices_become_q8_0_and_everything_else_stays(case):
    plain, quantized = load(TINY / case), load(TINY / case, quantize="q8_0")
    for matrix in quantized.matrices:
        types = {quantized.weights.info(tensor)[0] for tensor, _ in matrix.parts}
        table = matrix.name in ("position_embedding.weight", "segment_embedding.weight")
        stays = table or matrix.recast is not None
        assert types == ({"F32"} if stays else {"Q8_0"}), matrix.name
        found, given = matrix.values(quantized.weights), matrix.values(plain.weights)
        error = np.abs(found - given).max() / np.abs(given).max()
        assert error == 0 if stays else 0 < error < 0.01
    for found, given in zip(quantized.vectors, plain.vectors, strict=True):
        assert (found.values == given.values).all()


def test_vectors_of_a_quantized_encoder_are_near_and_the_log_says_how_near(caplog):
    texts = np.load(TINY / "bert-embedding" / "reference.npz")["input_ids"].tolist()
    with Model.from_pretrained(TINY / "bert-embedding", device="cpu") as model:
        expected = model.embed(texts)
    with (
        caplog.at_level(logging.INFO, "inferlib"),
        Model.from_pretrained(TINY / "bert-embedding", device="cpu", quantize="q8_0") as model,
    ):
        found = model.embed(texts)
        assert (found == model.embed(texts[::-1])[::-1]).all()
        details = model.stats()["details"]["quantization"]
    assert 0 < 1 - cosine(found, expected).min() < 1e-3
    assert "19 matrices quantized to Q8_0, which changes them by 0.5" in caplog.text
    assert f"most {details['worst_matrix']}: 0." in caplog.text
    assert (details["type"], details["matrices"]) == ("Q8_0", 19)
    assert 0.003 < details["relative_error"] <= details["worst_relative_error"] < 0.01


@pytest.mark.parametrize("quantize", get_args(Quantization))
def test_the_quality_figure_is_the_error_of_what_is_computed_with(quantize):
    plain, quantized = load(TINY / "llama"), load(TINY / "llama", quantize=quantize)
    shares, squares, errors = {}, 0.0, 0.0
    for matrix in quantized.matrices:
        for tensor, _ in matrix.parts:
            given = plain.weights.array(tensor).astype(np.float64)
            error = ((quantized.weights.array(tensor) - given) ** 2).sum()
            shares[tensor] = (error / (given**2).sum()) ** 0.5
            squares, errors = squares + (given**2).sum(), errors + error
            stored = "Q8_0" if quantize == "int8" else quantize.upper()
            assert quantized.weights.info(tensor)[0] == stored
    assert quantized.quantization == {
        "type": quantize.upper(),
        "matrices": len(shares),
        "relative_error": pytest.approx((errors / squares) ** 0.5, rel=1e-5),
        "worst_matrix": max(shares, key=shares.get),
        "worst_relative_error": pytest.approx(max(shares.values()), rel=1e-5),
    }
    assert plain.quantization is None


@pytest.mark.parametrize("quantize", ["q4_0", "q5_1", "int8"])
def test_logits_are_those_of_the_blocks(quantize):
    prompt = np.load(TINY / "llama" / "reference.npz")["input_ids"][0].tolist()
    loaded = load(TINY / "llama", quantize=quantize)
    reference = ReferenceExecutor(loaded.program, canonical_weights(loaded))
    logits = reference.run({0: prompt}, all_logits=True).logits
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    options = {"device": "cpu", "precision": "exact", "threads": 1, "quantize": quantize}
    with Model.from_pretrained(TINY / "llama", **options) as model:
        size = logits.shape[1]
        rows = model.generate(
            prompt, max_tokens=1, temperature=0, prompt_logprobs=size
        ).prompt_logprobs
    found = np.array([[row[token].logprob for token in range(size)] for row in rows[1:]])
    assert np.abs(found - expected[:-1]).max() <= 2e-4 * logits.std()


def test_a_published_quantization_that_became_floats_may_be_quantized(tmp_path):
    folder, floats = write(tmp_path, FORMS["fp8"])
    found, expected = load(folder, quantize="q8_0"), load(floats, quantize="q8_0")
    for matrix in expected.matrices:
        for tensor, _ in matrix.parts:
            assert found.weights.info(tensor)[0] == "Q8_0"
            assert (found.weights.raw(tensor) == expected.weights.raw(tensor)).all()
    assert found.quantization == expected.quantization
    folder, _ = write(tmp_path / "packed", FORMS["packed"])
    found = load(folder, quantize="q8_0")
    types = {found.weights.info(tensor)[0] for tensor in found.weights.names}
    assert types == {"Q4_0", "Q8_0", "F32"}


def test_receipts_tell_quantized_models_apart():
    receipts = []
    for quantize in (None, "q8_0"):
        with Model.from_pretrained(TINY / "llama", device="cpu", quantize=quantize) as model:
            receipts.append(model.generate([5, 6], max_tokens=2, temperature=0).receipt)
    first, second = (receipt.origin.fingerprint() for receipt in receipts)
    assert first != second


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(RequestError) as caught:
        Model.from_pretrained(real_model("smollm2"), quantize="q8_0")
    assert caught.value.field == "quantize"
    with pytest.raises(RequestError) as caught:
        Model.from_pretrained(TINY / "llama", quantize="q9")
    assert caught.value.field == "quantize"


def test_tensors_that_nobody_reads_do_not_matter(tmp_path):
    path = tmp_path / "model"
    shutil.copytree(TINY / "bert-embedding", path)
    weights = load_file(path / "model.safetensors")
    weights["embeddings.position_ids"] = np.arange(256, dtype=np.int64)[None]
    (path / "model.safetensors").unlink()
    save_file(weights, path / "model.safetensors")
    with Model.from_pretrained(path, device="cpu", quantize="q8_0") as model:
        assert model.embed([5, 6, 7]).shape == (64,)


def test_rows_of_one_scale_give_the_same_vectors_in_any_company_and_with_any_number_of_threads():
    random = np.random.default_rng(6)
    texts = [random.integers(1996, 30_000, n).tolist() for n in (1, 2, 7, 12, 30, 100, 200, 3)]
    alone = None
    for threads in (1, 2):
        options = {"device": "cpu", "threads": threads, "quantize": "int8"}
        with Model.from_pretrained(real_model("minilm"), **options) as model:
            found = np.array([model.embed(text) for text in texts])
            assert (model.embed(texts) == found).all()
            assert (model.embed(texts * 4) == np.tile(found, (4, 1))).all()
        assert alone is None or (found == alone).all()
        alone = found


def test_texts_go_on_as_they_would_alone_where_rows_have_one_scale():
    prompts = [list(range(3, 3 + n)) for n in (1, 5, 17, 40)]
    options = {"max_tokens": 8, "temperature": 0, "logprobs": 1}
    found = []
    for chunk in (1, 7, 512):
        fixed = {"max_num_batched_tokens": chunk, "enable_prefix_caching": False}
        with Model.from_pretrained(TINY / "llama", device="cpu", quantize="int8", **fixed) as model:
            together = model.generate(prompts, **options)
            alone = [model.generate(prompt, **options) for prompt in prompts]
        found += [
            [(c.token_ids, [dict(row) for row in c.logprobs]) for c in completions]
            for completions in (together, alone)
        ]
    assert all(run == found[0] for run in found)


def test_a_quantized_minilm_stays_near():
    texts = ["A cat sits on the mat.", "Interest rates were raised again.", "dog " * 100]
    with Model.from_pretrained(real_model("minilm"), device="cpu", precision="exact") as model:
        expected = model.embed(texts)
    with Model.from_pretrained(real_model("minilm"), device="cpu", quantize="q8_0") as model:
        assert cosine(model.embed(texts), expected).min() > 0.999
    with Model.from_pretrained(real_model("minilm"), device="cpu", quantize="int8") as model:
        assert cosine(model.embed(texts), expected).min() > 0.98
