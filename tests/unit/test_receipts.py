"""Receipts are enough to compute a completion again, and a completion is explained in words."""

from __future__ import annotations

import json
import pickle
import threading

import pytest

from inferlib import ModelError, ReplayError, RequestError
from inferlib.testing import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 250 for i in range(45)]
SAMPLED = {"max_tokens": 12, "temperature": 0.9, "n": 2, "logprobs": 1, "logit_bias": {7: 1.5}}


@pytest.fixture(scope="module")
def model():
    with tiny_model(max_position_embeddings=512) as model:
        yield model


def test_a_receipt_replays_in_another_process_or_model(model):
    completion = model.generate("Once upon", stop=["qq"], top_p=0.8, **SAMPLED)
    receipt = json.loads(json.dumps(completion.receipt.to_dict()))
    with tiny_model(max_position_embeddings=512, enable_prefix_caching=False) as other:
        again = other.replay(receipt)
    for mine, theirs in zip(again.outputs, completion.outputs, strict=True):
        assert mine.text == theirs.text
        assert mine.logprobs == theirs.logprobs
    assert again.receipt.to_dict() == completion.receipt.to_dict()
    assert model.replay(completion.receipt).token_ids == completion.token_ids
    assert receipt["tier"]
    assert receipt["params"]["seed"] == completion.params.seed


def test_a_pickled_completion_has_a_receipt_if_it_was_asked_for_before():
    with tiny_model() as model:
        completion = model.generate(PROMPT, max_tokens=2)
        with pytest.raises(ModelError, match="before the weights"):
            pickle.loads(pickle.dumps(completion)).receipt.to_dict()
        receipt = completion.receipt.to_dict()
        copied = pickle.loads(pickle.dumps(completion))
        assert copied.receipt.to_dict() == receipt
        assert copied == completion


def test_another_model_is_named(model):
    receipt = model.generate(PROMPT, **SAMPLED).receipt
    for field, options in [
        ("weights", {"seed": 1}),
        ("precision", {"precision": "balanced"}),
        ("kv_cache_dtype", {"kv_cache_dtype": "int8"}),
    ]:
        with tiny_model(max_position_embeddings=512, **options) as other:
            with pytest.raises(ReplayError) as caught:
                other.replay(receipt)
            assert caught.value.field == field
            assert caught.value.expected != caught.value.found


def test_another_result_is_noticed(model):
    receipt = model.generate(PROMPT, **SAMPLED).receipt.to_dict()
    receipt["outputs"][1]["logprobs"][3] -= 1e-6
    with pytest.raises(ReplayError) as caught:
        model.replay(receipt)
    assert caught.value.field == "outputs"


def test_what_is_no_receipt_is_refused(model):
    receipt = model.generate(PROMPT, **SAMPLED).receipt.to_dict()
    for change in (
        {"version": 0},
        {"params": {"temprature": 1}},
        {"prompt_token_ids": ["a"]},
        {"outputs": [{}]},
        {"outputs": 3},
    ):
        with pytest.raises(RequestError) as caught:
            model.replay({**receipt, **change})
        assert caught.value.field == "receipt"
    with pytest.raises(RequestError):
        model.replay({})


def test_a_completion_says_what_happened(model):
    model.generate(PROMPT, max_tokens=1)
    words = model.generate(PROMPT, max_tokens=5, temperature=0, ignore_eos=True).explain()
    assert "prompt: 45 tokens, 32 of them found in memory; 13 tokens computed in 1 chunk" in words
    assert "sampling: greedy" in words
    assert "5 tokens, ended by max_tokens" in words
    words = model.generate(PROMPT, max_tokens=3, seed=4, top_k=9, stop_token_ids=[1]).explain()
    assert "temperature 1, seed 4, top_k 9" in words


def test_preemptions_and_waits_are_told():
    with tiny_model(max_position_embeddings=128, kv_cache="160 tokens") as model:
        prompts = [[i, *PROMPT] for i in range(3)]
        options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
        words = [each.explain() for each in model.generate(prompts, **options)]
        assert "too few KV blocks were free" in words[2]
        assert any("preempted: 1 time" in each for each in words)
        handles = [model.submit(prompt, **options) for prompt in prompts]
        assert "does anybody wait" in handles[0].explain()
        seen = []
        thread = threading.Thread(target=handles[0].result)
        thread.start()
        while thread.is_alive():
            seen.append(handles[2].explain())
        thread.join()
        assert any("too few KV blocks" in each for each in seen)
        assert handles[0].explain() == handles[0].result().explain()
        for handle in handles:
            handle.result()
