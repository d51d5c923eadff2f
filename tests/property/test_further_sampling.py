"""Further sampling options of a real model: the same whatever runs beside, also when preempted."""

from __future__ import annotations

import pytest
from tests.real_models import real_model

import inferlib

OPTIONS = (
    {"top_n_sigma": 1.0, "temperature": 1.5},
    {"typical_p": 0.8},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"mirostat": 2, "mirostat_tau": 3.0},
    {"no_repeat_ngram_size": 3},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1},
    {"mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.5, "n": 3},
    {"typical_p": 0.9, "dry_multiplier": 0.5, "regex": "[a-z ]{40,80}", "top_k": 50},
)
PROMPT = "The cat sat on the mat. The cat sat on the"


@pytest.fixture(scope="module")
def model():
    with inferlib.Model.from_pretrained(real_model("smollm2"), kv_cache="8k tokens") as model:
        yield model


def test_results_do_not_depend_on_batch_mates_or_preemptions(model):
    common = {"max_tokens": 60, "logprobs": 2}
    alone = [
        model.generate(PROMPT, seed=seed, **common, **options)
        for seed, options in enumerate(OPTIONS)
    ]
    for expected in alone[:4]:
        assert len(expected.token_ids) > 1
    with inferlib.Model.from_pretrained(
        real_model("smollm2"), kv_cache="352 tokens", max_num_batched_tokens=24
    ) as tight:
        handles = [
            tight.submit(PROMPT, seed=seed, **common, **options)
            for seed, options in enumerate(OPTIONS)
        ]
        together = [handle.result() for handle in handles]
        assert tight.stats()["preemptions"] > 0
    for expected, found in zip(alone, together, strict=True):
        for one, other in zip(expected.outputs, found.outputs, strict=True):
            assert other.token_ids == one.token_ids
            assert other.logprobs == one.logprobs
            assert other.finish_reason == one.finish_reason


def test_a_result_is_replayed_from_its_receipt(model):
    completion = model.generate(PROMPT, seed=1, max_tokens=24, logprobs=0, mirostat=2)
    assert completion.params.mirostat == 2
    again = model.replay(completion.receipt)
    assert again.token_ids == completion.token_ids


def test_repetitions_are_forbidden_or_made_less_likely(model):
    plain = model.generate(PROMPT, temperature=0, max_tokens=24)
    strict = model.generate(PROMPT, temperature=0, max_tokens=24, no_repeat_ngram_size=3)
    runs = [*plain.prompt_token_ids, *strict.token_ids]
    triples = [tuple(runs[at : at + 3]) for at in range(len(runs) - 2)]
    first = len(plain.prompt_token_ids) - 2
    assert all(triples[at] not in triples[:at] for at in range(first, len(triples)))
    dry = model.generate(PROMPT, temperature=0, max_tokens=24, dry_multiplier=5.0)
    assert dry.token_ids != plain.token_ids


def test_mirostat_holds_the_surprise():
    """With a small step the mean surprise comes near to what is wanted."""
    with inferlib.Model.from_pretrained(real_model("smollm2"), kv_cache="4k tokens") as model:
        for tau in (1.0, 3.0):
            found = model.generate(
                "Once upon a time",
                seed=3,
                mirostat=2,
                mirostat_tau=tau,
                mirostat_eta=0.3,
                max_tokens=160,
                ignore_eos=True,
                logprobs=0,
                logprobs_mode="processed",
            )
            drawn = zip(found.token_ids, found.logprobs, strict=True)
            bits = [-row[token].logprob / 0.6931471805599453 for token, row in drawn]
            mean = sum(bits[20:]) / len(bits[20:])
            assert abs(mean - tau) < 0.5 * tau
