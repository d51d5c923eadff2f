"""The recorded forward pass against transformers, for a tiny checkpoint of each family."""

import numpy as np
import pytest
from tests.checkpoints import reference_executor
from tests.gguf_checkpoints import EVERY_CASE, golden_of, path_of

# Of the standard deviation of the logits: transformers computed them in float32.
TOLERANCE = 2e-4


@pytest.fixture(params=EVERY_CASE, scope="module")
def case(request, tmp_path_factory):
    path = path_of(request.param, tmp_path_factory)
    return reference_executor(path), golden_of(request.param)


def test_logits_and_hidden_states_equal_those_of_transformers(case):
    executor, golden = case
    num_layers = sum(name.endswith("hook_resid_pre") for name in executor.program.captures)
    points = [f"blocks.{i}.hook_resid_pre" for i in range(num_layers)] + ["ln_final"]
    for sequence, token_ids in enumerate(golden["input_ids"]):
        step = executor.run({1000 + sequence: token_ids}, all_logits=True, capture=points)
        logits = golden["logits"][sequence]
        assert np.abs(step.logits - logits).max() <= TOLERANCE * logits.std()
        for i, point in enumerate(points):
            hidden = golden[f"hidden_{i}"][sequence]
            assert np.abs(step.captures[point] - hidden).max() <= TOLERANCE * hidden.std(), point


def test_greedy_continuations_equal_those_of_transformers(case):
    executor, golden = case
    for token_ids, continuation in zip(golden["input_ids"], golden["greedy"], strict=True):
        assert executor.greedy(token_ids.tolist(), len(continuation)) == continuation.tolist()


def test_chunks_and_batches_change_nothing(case):
    executor, golden = case
    first, second = golden["input_ids"]
    executor.run({-1: first[:5]})
    executor.run({-1: first[5:6], -2: second[:17]})
    step = executor.run({-2: second[17:], -1: first[6:]}, all_logits=True)
    expected = np.concatenate([golden["logits"][1, 17:], golden["logits"][0, 6:]])
    assert np.abs(step.logits - expected).max() <= TOLERANCE * golden["logits"].std()
