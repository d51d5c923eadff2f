"""What keys and values are stored as: what each type costs in memory and in accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import TINY

from inferlib import Model, RequestError
from inferlib._core import CpuExecutor
from inferlib.config import BLOCK_SIZE

CASES = ("gemma3", "llama", "qwen2")
# Largest error of a log-probability against float32 keys and values, of the logits' standard
# deviation. Products are exact and sums are float32 in all but bf16.
TOLERANCES = {"f32": 0, "f16": 5e-3, "bf16": 6e-2, "int8": 0.15}


def load(case, **options):
    return Model.from_pretrained(TINY / case, precision="exact", threads=2, **options)


def log_probabilities(model, golden):
    """``[prompts][positions, vocab_size]``."""
    vocab_size = golden["logits"].shape[-1]
    completions = model.generate(
        golden["input_ids"].tolist(), max_tokens=1, temperature=0, prompt_logprobs=vocab_size
    )
    return np.array(
        [
            [[row[token].logprob for token in range(vocab_size)] for row in completion_rows]
            for completion_rows in (c.prompt_logprobs[1:] for c in completions)
        ]
    )


@pytest.mark.parametrize("kv_cache_dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_a_type_rounds_as_much_as_it_must_and_no_more(case, kv_cache_dtype):
    golden = np.load(TINY / case / "reference.npz")
    with load(case) as model:
        assert model.stats()["details"]["kv_cache_dtype"] == "f32"
        expected = log_probabilities(model, golden)
    with load(case, kv_cache_dtype=kv_cache_dtype) as model:
        assert model.stats()["details"]["kv_cache_dtype"] == kv_cache_dtype
        found = log_probabilities(model, golden)
    error = np.abs(found - expected).max() / golden["logits"].std()
    assert error <= TOLERANCES[kv_cache_dtype]
    assert (error > 0) == (kv_cache_dtype != "f32")


@pytest.mark.parametrize(
    ("precision", "expected"), [("fast", "f16"), ("balanced", "f16"), ("exact", "f32")]
)
def test_by_default_the_precision_decides(precision, expected):
    with Model.from_pretrained(TINY / "llama", precision=precision) as model:
        assert model.stats()["details"]["kv_cache_dtype"] == expected


def test_a_size_in_bytes_holds_more_tokens_of_a_smaller_type():
    tokens = {}
    for kv_cache_dtype in TOLERANCES:
        options = {"kv_cache": "1MiB", "kv_cache_dtype": kv_cache_dtype}
        with Model.from_pretrained(TINY / "llama", **options) as model:
            details = model.stats()["details"]
            tokens[kv_cache_dtype] = model.stats()["total_blocks"] * BLOCK_SIZE
            assert details["kv_cache_bytes"] <= 2**20
            assert details["kv_cache_bytes"] > 2**20 * 15 // 16
    assert tokens["bf16"] == tokens["f16"]
    assert tokens["f16"] // 2 in (tokens["f32"], tokens["f32"] + BLOCK_SIZE)
    assert 1.5 * tokens["f16"] < tokens["int8"] < 2 * tokens["f16"]


@pytest.mark.parametrize("kv_cache_dtype", ["", "fp8", "F16", "float16"])
def test_another_type_is_refused_with_those_there_are(kv_cache_dtype):
    with pytest.raises(RequestError, match='"auto", "f16", "bf16", "int8", "f32"') as caught:
        Model.from_pretrained(TINY / "llama", kv_cache_dtype=kv_cache_dtype)
    assert caught.value.field == "kv_cache_dtype"


def test_the_executor_knows_bytes_per_block_and_refuses_other_types():
    with load("llama") as model:
        program = model._parts.checkpoint.program
    (group,) = program.kv_groups
    elements = (
        BLOCK_SIZE * group.num_layers * group.num_kv_heads * (group.k_head_dim + group.v_head_dim)
    )
    scales = BLOCK_SIZE * group.num_layers * group.num_kv_heads * 2
    expected = {"f32": 4 * elements, "f16": 2 * elements, "bf16": 2 * elements}
    expected |= {"int8": elements + 2 * scales, "auto": 2 * elements}
    for name, num_bytes in expected.items():
        assert CpuExecutor.bytes_per_block(program, "fast", name) == [num_bytes]
    with pytest.raises(RequestError, match='choose "auto", "f16"') as caught:
        CpuExecutor.bytes_per_block(program, "fast", "f8")
    assert caught.value.field == "kv_cache_dtype"
