"""A large head is read in part where that decides the token: the whole head gives the same tokens.

Asking for log-probabilities takes the whole head, and changes nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.real_models import real_model

from inferlib import Model

REAL = Path(__file__).parent.parent / "golden" / "data" / "real"

WISHES = {
    "greedy": {"temperature": 0},
    "top_k": {"temperature": 0.9, "top_k": 20},
    "top_k of too many to gain by it": {"temperature": 0.9, "top_k": 40},
    "top_k 1 of all": {"temperature": 1.5, "top_k": 1},
    "top_k and top_p": {"temperature": 1.0, "top_k": 20, "top_p": 0.9},
    "min_p": {"temperature": 0.8, "min_p": 0.05},
    "top_k and min_p": {"temperature": 0.8, "top_k": 20, "min_p": 0.02},
}


@pytest.fixture(params=["fast", "balanced"], scope="module")
def model(request):
    path = real_model("gemma")
    with Model.from_pretrained(
        path, precision=request.param, kv_cache="8k tokens", speculation="off"
    ) as model:
        yield model


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("together", [1, 3])
def test_tokens_are_those_of_the_whole_head(model, wish, together):
    golden = np.load(REAL / "gemma.npz")
    prompts = [golden[f"ids_{i}"].tolist()[:64] for i in range(together)]
    options = {"max_tokens": 24, "ignore_eos": True, "seed": 3, **WISHES[wish]}
    screened = model.generate(prompts, **options)
    whole = model.generate(prompts, logprobs=0, **options)
    assert [c.token_ids for c in screened] == [c.token_ids for c in whole]
