"""Encoders and embedders against transformers, and MiniLM against the oracle in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.checkpoints import TINY, reference_executor
from tests.encoders import CASES, cosine, golden, hidden_states
from tests.real_models import real_model

from inferlib import Model

TOLERANCE = 2e-4
COSINE = 0.99999


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_program_equals_transformers(case):
    expected = golden(case)
    executor = reference_executor(TINY / case)
    layers = sum(name.endswith("hook_resid_pre") for name in executor.program.captures)
    points = [f"blocks.{i}.hook_resid_pre" for i in range(layers)] + ["ln_final"]
    scores = ["scores"] if case == "bert-classifier" else []
    for sequence, token_ids in enumerate(expected["input_ids"]):
        step = executor.run({sequence: token_ids}, capture=[*points, *scores])
        for index, point in enumerate(points):
            hidden = expected[f"hidden_{index}"][sequence]
            assert np.abs(step.captures[point] - hidden).max() <= TOLERANCE * hidden.std(), point
        for point in scores:
            assert np.abs(step.captures[point][0] - expected["pooled"][sequence]).max() <= TOLERANCE


@pytest.mark.parametrize("case", [case for case in CASES if case != "bert-classifier"])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_vectors_equal_those_of_transformers(case, precision):
    expected = golden(case)
    last = expected["hidden_3"]
    texts = expected["input_ids"].tolist()
    with Model.from_pretrained(TINY / case, precision=precision, device="cpu") as model:
        for pooling, vectors in {
            "mean": expected["pooled"],
            "cls": last[:, 0],
            "last": last[:, -1],
            "max": last.max(axis=1),
        }.items():
            found = model.embed(texts, pooling=pooling)
            assert found.dtype == np.float32
            assert cosine(found, vectors).min() >= COSINE, pooling
            if precision == "exact":
                assert np.abs(found - vectors).max() <= TOLERANCE * vectors.std(), pooling


def test_scores_equal_those_of_transformers():
    expected = golden("bert-classifier")
    with Model.from_pretrained(TINY / "bert-classifier", precision="exact", device="cpu") as model:
        found = model.classify(expected["input_ids"].tolist())
    for result, logits in zip(found, expected["pooled"], strict=True):
        assert list(result.logits) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert np.abs(np.array(list(result.logits.values())) - logits).max() <= TOLERANCE
        probabilities = np.exp(logits) / np.exp(logits).sum()
        found_probabilities = np.array(list(result.probabilities.values()))
        assert np.abs(found_probabilities - probabilities).max() <= TOLERANCE
        assert result.label == f"LABEL_{logits.argmax()}"
        assert result.probability == max(result.probabilities.values())


SENTENCES = [
    "This is an example sentence",
    "Each sentence is converted",
    "A cat sits on the mat.",
    "",
    "Naïve café — 東京 🙂 e\u0301",
    "The quick brown fox jumps over the lazy dog. " * 20,
]


@pytest.mark.parametrize(("precision", "least"), [("exact", 0.999999), ("fast", 0.9999)])
def test_minilm_equals_the_oracle(precision, least):
    path = real_model("minilm")
    with Model.from_pretrained(path, precision=precision, device="cpu") as model:
        found = model.embed(SENTENCES)
        tokens = [model.tokenizer.encode(text).tolist() for text in SENTENCES]
    expected = np.array([rows.mean(axis=0) for rows in hidden_states(path, tokens)])
    assert found.shape == (len(SENTENCES), 384)
    assert np.abs(np.linalg.norm(found.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert cosine(found, expected).min() >= least


def test_minilm_gives_the_vector_of_its_model_card():
    """The two sentences of the card, whose cosine sentence-transformers gives as 0.5 or so."""
    with Model.from_pretrained(real_model("minilm"), device="cpu") as model:
        near, far = model.embed(SENTENCES[:2]), model.embed(SENTENCES[2])
    assert near[0] @ near[1] > 0.4 > near[0] @ far


def test_minilm_reads_words_as_the_golden_ids_say():
    texts = TINY.parent / "text"
    expected = json.loads((texts / "ids_minilm.json").read_text("utf8"))
    edge = json.loads((texts / "edge_cases.json").read_text("utf8"))
    with Model.from_pretrained(real_model("minilm"), device="cpu") as model:
        tokenizer = model.tokenizer
        for name, ids in expected["lines"].items():
            lines = (texts / name).read_text("utf8").split("\n")
            found = [tokenizer.encode(line, add_special=False).tolist() for line in lines]
            assert found[: len(ids)] == ids, name
        for text, ids in zip(edge, expected["edge"], strict=True):
            assert tokenizer.encode(text, add_special=False).tolist() == ids, text
            whole = tokenizer.encode(text).tolist()
            assert whole == [101, *ids, 102]
