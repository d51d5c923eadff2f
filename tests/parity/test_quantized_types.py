"""Models of every tensor type of GGUF files: the numbers are the file's, held in its own bytes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import reference_executor
from tests.quantized_checkpoints import (
    VOCAB_SIZE,
    write_random_deepseek,
    write_random_llama,
)

from inferlib import Model

TYPES = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"),
)
PROMPT = [int(i) for i in np.random.default_rng(1).integers(0, VOCAB_SIZE, 40)]
# Of the standard deviation of the logits.
TOLERANCE = 2e-4
# Mean over the positions of KL(exact, fast), in nats.
KLD = 2e-2


def log_probabilities(path, precision):
    """``[positions, vocabulary]`` of the prompt, a greedy continuation, and what stats say."""
    with Model.from_pretrained(path, precision=precision, threads=2) as model:
        options = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
        completion = model.generate(PROMPT, prompt_logprobs=VOCAB_SIZE, **options)
        rows = [row for row in completion.prompt_logprobs if row is not None]
        values = [[row[token].logprob for token in range(VOCAB_SIZE)] for row in rows]
        return np.array(values), completion.token_ids, model.stats()["details"]


DEEPSEEK = -1
"""In the place of a number of experts."""


def write_model(path, types, num_experts, *, dequantized=False):
    if num_experts == DEEPSEEK:
        write_random_deepseek(path, *types, dequantized=dequantized)
    else:
        write_random_llama(path, *types, dequantized=dequantized, num_experts=num_experts)


# Seven types do not divide the matrices of a layer: q, k and v, gate and up differ, and the layers.
MIXED = ("Q4_K", "Q6_K", "IQ4_XS", "Q2_K", "F16", "MXFP4", "Q5_0")


# As stacked experts: gate and up of one type, and so multiplied as a pair, and of several.
EXPERTS = (("MXFP4",), ("Q4_K", "Q4_K", "Q4_K", "Q4_K", "Q6_K"), MIXED)
# Latent attention: a matrix per head.
LATENT = (("Q8_0",), ("Q4_0", "Q5_1", "IQ4_NL", "F16", "MXFP4"))
CASES = [
    *(((name,), 0) for name in TYPES),
    *[(MIXED, 0), *((types, 5) for types in EXPERTS)],
    *((types, DEEPSEEK) for types in LATENT),
]


def name_of(case):
    types, num_experts = case
    if num_experts == DEEPSEEK:
        return "-".join(types) + " of latent attention"
    return "-".join(types) + (f" of {num_experts} experts" if num_experts else "")


@pytest.fixture(params=CASES, ids=name_of, scope="module")
def case(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    types, num_experts = request.param
    write_model(path, types, num_experts)
    return request.param, path


def test_exact_results_are_those_of_the_dequantized_weights_bit_for_bit(case, tmp_path):
    (types, num_experts), path = case
    dequantized = tmp_path / "dequantized.gguf"
    write_model(dequantized, types, num_experts, dequantized=True)
    found, found_ids, _ = log_probabilities(path, "exact")
    expected, expected_ids, details = log_probabilities(dequantized, "exact")
    assert set(details["weight_bytes_by_type"]) == {"F32"}
    np.testing.assert_array_equal(found, expected)
    assert found_ids == expected_ids


def test_exact_results_are_those_of_the_reference(case):
    _, path = case
    found, _, _ = log_probabilities(path, "exact")
    logits = reference_executor(path).run({0: np.array(PROMPT)}, all_logits=True).logits
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert np.abs(found - expected[:-1]).max() <= TOLERANCE * logits.std()


def test_fast_results_are_close_and_the_weights_take_the_files_bytes(case):
    (types, num_experts), path = case
    exact, _, _ = log_probabilities(path, "exact")
    fast, _, details = log_probabilities(path, "fast")
    assert (np.exp(exact) * (exact - fast)).sum(-1).mean() < KLD
    router = {"F32"} if num_experts else set()
    assert set(details["weight_bytes_by_type"]) == set(types) | router
    assert details["fallback_weights"] == []
    # 16 rows make a panel, and all matrices have a multiple of that.
    held = sum(details["weight_bytes_by_type"].values())
    assert held == pytest.approx(path.stat().st_size, rel=0.05)
