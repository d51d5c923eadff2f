"""``quantize=``: matrices of a float checkpoint as ``Q8_0``, what that changes, what it refuses."""

from __future__ import annotations

import logging
import shutil

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import ENCODERS, TINY
from tests.encoders import cosine
from tests.real_models import real_model

from inferlib import Model, RequestError
from inferlib.loading import load
from inferlib.quantizing import q8_0


def test_blocks_are_those_of_the_format():
    random = np.random.default_rng(3)
    values = random.standard_normal((7, 96)).astype(np.float32)
    values[2, :32] = 0
    values[3, :32] = 0.5
    values[4, 32:64] *= 1e-3
    blocks, restored = q8_0(values)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    assert blocks.tobytes() == expected.tobytes()
    dequantized = gguf.quants.dequantize(expected, gguf.GGMLQuantizationType.Q8_0)
    assert (restored == dequantized).all()
    assert np.abs(values - restored).max() < np.abs(values).max() / 200


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
    assert 0 < 1 - cosine(found, expected).min() < 1e-3
    assert "19 matrices quantized to Q8_0" in caplog.text


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


def test_a_quantized_minilm_stays_near():
    texts = ["A cat sits on the mat.", "Interest rates were raised again.", "dog " * 100]
    with Model.from_pretrained(real_model("minilm"), device="cpu", precision="exact") as model:
        expected = model.embed(texts)
    with Model.from_pretrained(real_model("minilm"), device="cpu", quantize="q8_0") as model:
        assert cosine(model.embed(texts), expected).min() > 0.999
