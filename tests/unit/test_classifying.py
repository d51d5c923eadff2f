"""``classify`` and ``rerank``: labels, probabilities, order; against the oracle."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import reference_executor
from tests.unit.test_embedding import encoder_folder

from inferlib import Model, PromptTooLongError, RequestError, UnsupportedModelError

DOCUMENTS = ["cats sat", "dog", "dogs sat cat", "", "dog", "cat " * 10]


def with_labels(path, labels, **config):
    """The golden classifier with the first of its scores, or repeated ones, under other names."""
    encoder_folder(path, "bert-classifier")
    weights = load_file(path / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        rows = weights[name]
        weights[name] = np.concatenate([rows] * len(labels))[: len(labels)].copy()
    (path / "model.safetensors").unlink()
    save_file(weights, path / "model.safetensors")
    known = json.loads((path / "config.json").read_text())
    known |= {"id2label": {str(i): label for i, label in enumerate(labels)}, **config}
    (path / "config.json").unlink()
    (path / "config.json").write_text(json.dumps(known))
    return path


@pytest.fixture(scope="module")
def reranker_path(tmp_path_factory):
    return with_labels(tmp_path_factory.mktemp("reranker") / "model", ["relevance"])


@pytest.fixture(scope="module")
def reranker(reranker_path):
    with Model.from_pretrained(reranker_path, device="cpu", precision="exact") as model:
        yield model


def oracle(path, model, query, document):
    ids, second, _ = model.tokenizer.encode_segments(query, document)
    step = reference_executor(path).run(
        {0: ids.tolist()}, capture=["scores"], second_segments={0: second}
    )
    return step.captures["scores"][0, 0]


def test_documents_are_ordered_by_the_scores_of_the_oracle(reranker, reranker_path):
    found = reranker.rerank("cat", DOCUMENTS)
    expected = [oracle(reranker_path, reranker, "cat", document) for document in DOCUMENTS]
    assert sorted(each.index for each in found) == list(range(len(DOCUMENTS)))
    for each in found:
        assert each.document == DOCUMENTS[each.index]
        assert abs(each.logit - expected[each.index]) < 1e-5
        assert abs(each.score - 1 / (1 + np.exp(-each.logit))) < 1e-12
    assert [each.logit for each in found] == sorted((each.logit for each in found), reverse=True)
    equal = [each.index for each in found if each.document == "dog"]
    assert equal == [1, 4]  # of equals the first comes first


def test_which_text_is_the_second_matters(reranker):
    one, other = reranker.rerank("cat sat", ["dog"]), reranker.rerank("dog", ["cat sat"])
    assert one[0].logit != other[0].logit
    whole = reranker.classify("cat sat [SEP] dog")
    assert one[0].logit != whole.logits["relevance"]  # the same tokens, all of one text


def test_the_best_alone_and_none(reranker):
    found = reranker.rerank("cat", DOCUMENTS)
    assert reranker.rerank("cat", DOCUMENTS, top_n=2) == found[:2]
    assert reranker.rerank("cat", []) == []
    assert asyncio.run(reranker.arerank("cat", DOCUMENTS)) == found
    assert found[0].to_dict()["index"] == found[0].index


def test_documents_are_cut_but_not_the_query(reranker):
    long = "cat " * 400
    with pytest.raises(PromptTooLongError) as caught:
        reranker.rerank("dog", [long])
    assert caught.value.field == "documents"
    assert len(reranker.rerank("dog", [long, "cat"], truncate=True)) == 2
    with pytest.raises(PromptTooLongError):
        reranker.rerank(long, ["dog"], truncate=True)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("query", (5, ["cat"])),
        ("documents", ("cat", "dog")),
        ("documents", ("cat", ["dog", 5])),
        ("documents", ("cat", ["\ud800"])),
    ],
)
def test_bad_input_names_its_field(reranker, field, arguments):
    with pytest.raises(RequestError) as caught:
        reranker.rerank(*arguments)
    assert caught.value.field == field
    with pytest.raises(RequestError) as caught:
        reranker.rerank("cat", ["dog"], top_n=0)
    assert caught.value.field == "top_n"


def test_labels_of_which_one_is_true(tmp_path):
    path = with_labels(tmp_path / "model", ["bad", "good", "neither"])
    with Model.from_pretrained(path, device="cpu") as model:
        one, many = model.classify("cats"), model.classify(["cats", "dog"])
        twins = asyncio.run(model.aclassify(["cats", "dog"]))
        with pytest.raises(RequestError, match="3 scores"):
            model.rerank("cat", ["dog"])
        vector = model.embed("cats")
    assert many[0] == one
    assert twins == many
    assert list(one.probabilities) == ["bad", "good", "neither"]
    assert abs(sum(one.probabilities.values()) - 1) < 1e-12
    assert one.label == max(one.logits, key=one.logits.__getitem__)
    assert one.to_dict()["label"] == one.label
    assert vector.shape == (64,)


def test_labels_that_are_true_or_false_each(tmp_path):
    kind = "multi_label_classification"
    path = with_labels(tmp_path / "model", ["a", "b", "c", "d"], problem_type=kind)
    with Model.from_pretrained(path, device="cpu") as model:
        found = model.classify("cats")
    for label, logit in found.logits.items():
        assert abs(found.probabilities[label] - 1 / (1 + np.exp(-logit))) < 1e-6
    assert found.logits["a"] == found.logits["d"]
    assert found.label == "a" or found.logits["a"] < found.logits[found.label]


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_encoders_of_other_kinds_are_refused_by_name(tmp_path, config, what):
    path = with_labels(tmp_path / "model", ["a"], **config)
    with pytest.raises(UnsupportedModelError, match=what):
        Model.from_pretrained(path, device="cpu")
