"""``precision="exact"`` on the CPU executor against transformers' float32 results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.gguf_checkpoints import EVERY_CASE, golden_of, path_of
from tests.real_models import real_model

from inferlib import Model

REAL = Path(__file__).parent.parent / "golden" / "data" / "real"
# Of the standard deviation of the logits.
TINY_TOLERANCE = 2e-4
REAL_TOLERANCE = 2e-3
# Below this gap between the two best logits, either token is right from there on.
SMALL_MARGIN = 1e-3


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.fixture(params=EVERY_CASE, scope="module")
def case(request, tmp_path_factory):
    path = path_of(request.param, tmp_path_factory)
    with Model.from_pretrained(path, precision="exact", threads=2) as model:
        yield model, golden_of(request.param)


def test_log_probabilities_of_the_whole_vocabulary_equal_those_of_transformers(case):
    model, golden = case
    vocab_size = golden["logits"].shape[-1]
    for token_ids, logits in zip(golden["input_ids"], golden["logits"], strict=True):
        completion = model.generate(
            token_ids.tolist(), max_tokens=1, temperature=0, prompt_logprobs=vocab_size
        )
        expected = log_softmax(logits)
        for position, row in enumerate(completion.prompt_logprobs):
            if row is None:
                continue
            assert len(row) == vocab_size
            found = np.array([row[token].logprob for token in range(vocab_size)])
            error = np.abs(found - expected[position - 1]).max()
            assert error <= TINY_TOLERANCE * logits.std(), position


def test_greedy_continuations_equal_those_of_transformers(case):
    model, golden = case
    num_tokens = golden["greedy"].shape[1]
    for token_ids, continuation in zip(golden["input_ids"], golden["greedy"], strict=True):
        completion = model.generate(
            token_ids.tolist(), max_tokens=num_tokens, temperature=0, ignore_eos=True
        )
        assert completion.token_ids == continuation.tolist()


@pytest.fixture(params=["smollm2", "gemma"], scope="module")
def real(request):
    path = real_model(request.param)
    with Model.from_pretrained(path, precision="exact", kv_cache="8k tokens") as model:
        yield model, np.load(REAL / f"{request.param}.npz")


@pytest.mark.timeout(300)
def test_real_models_equal_transformers(real):
    model, golden = real
    count = sum(name.startswith("ids_") for name in golden.files)
    prompts = [golden[f"ids_{i}"].tolist() for i in range(count)]
    completions = model.generate(
        prompts, max_tokens=64, temperature=0, ignore_eos=True, prompt_logprobs=20
    )
    same = 0
    for i, completion in enumerate(completions):
        for position, row in enumerate(completion.prompt_logprobs):
            if row is None:
                continue
            ids, values = golden[f"top_ids_{i}"], golden[f"top_logprobs_{i}"]
            pairs = zip(ids[position - 1], values[position - 1], strict=True)
            errors = [abs(row[t].logprob - v) for t, v in pairs if t in row]
            assert len(errors) >= 18  # the 20th best may change places with the 21st
            assert max(errors) <= REAL_TOLERANCE, (i, position)
        different = np.nonzero(np.array(completion.token_ids) != golden[f"greedy_{i}"])[0]
        same += not len(different) or golden[f"margin_{i}"][different[0]] < SMALL_MARGIN
    assert same >= 0.95 * count
