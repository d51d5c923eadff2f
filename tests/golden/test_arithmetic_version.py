"""No bit of a result changes unless ``origin.ARITHMETIC_VERSION`` says so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tests.real_models import real_model

import inferlib
from inferlib.origin import ARITHMETIC_VERSION

STORED = json.loads((Path(__file__).parent / "data" / "arithmetic.json").read_text())
"""By model and numerics: SHA-256 of the float32 log-probabilities. The same on every processor."""
PROMPT = "A stone falls into a well; after 2.5 seconds one hears it. How deep is it?"


def fingerprint(name: str, precision: str, kv_cache_dtype: str) -> str:
    """Prefill, decode and a large part of the distribution, as bytes."""
    path = real_model(name)
    with inferlib.Model.from_pretrained(
        path, precision=precision, kv_cache_dtype=kv_cache_dtype, kv_cache="1k tokens"
    ) as model:
        completion = model.generate(
            PROMPT, max_tokens=24, temperature=0, ignore_eos=True, logprobs=20, prompt_logprobs=5
        )
    rows = [row for row in completion.prompt_logprobs if row] + completion.logprobs
    pairs = [(token, each.logprob) for row in rows for token, each in sorted(row.items())]
    tokens, logprobs = zip(*pairs, strict=True)
    data = np.array(tokens, "<i4").tobytes() + np.array(logprobs, "<f4").tobytes()
    return hashlib.sha256(data).hexdigest()


def test_the_stored_bits_are_of_this_version():
    assert STORED["arithmetic_version"] == ARITHMETIC_VERSION, (
        "store the new fingerprints: tests/golden/test_arithmetic_version.py computes them"
    )


@pytest.mark.parametrize("case", STORED["fingerprints"])
def test_bits_are_those_of_the_arithmetic_version(case):
    assert fingerprint(*case.split()) == STORED["fingerprints"][case], (
        "results have other bits than before: if that is wanted, raise origin.ARITHMETIC_VERSION"
    )
