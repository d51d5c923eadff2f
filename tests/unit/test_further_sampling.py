"""Further cuts and repetitions of the sampler, against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest

from inferlib import _core

SIZES = (1, 2, 7, 8, 9, 31, 32, 33, 257)
SLACK = 1e-6


def drawn(logits, prompt=(0,), *, seed=5, **options):
    """The token that is drawn, and all that could have been, by id."""
    size = logits.size
    scheduler = _core.Scheduler(
        groups=[(64, None)],
        max_num_seqs=1,
        max_num_batched_tokens=512,
        max_model_len=600,
        vocab_size=size,
    )
    params = _core.SamplingParams(max_tokens=1, logprobs=1024, logprobs_mode="processed", **options)
    request = scheduler.submit(np.asarray(prompt, np.int32), params, seed=seed, now=1.0)
    batch = scheduler.schedule(2.0)
    output = _core.LogitsSampler(size).complete(
        batch,
        np.zeros(1, np.int32),
        logits[None].astype(np.float32),
        np.zeros(1, np.int32),
        np.zeros(1, bool),
    )
    scheduler.update(output, 3.0)
    sequence = scheduler.take(request).sequences[0]
    if sequence.finish_reason == "error":
        return None, set()
    return int(sequence.token_ids[0]), set(sequence.logprobs[0].top_ids.tolist())


def rows():
    generator = np.random.default_rng(3)
    for size in SIZES:
        for spread in (0.3, 2.0, 5.0):
            yield np.float32(generator.normal(0, spread, size))


def probabilities(logits, temperature=1.0):
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


@pytest.mark.parametrize("share", [0.2, 0.7, 0.95])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_typical_p_keeps_what_is_near_the_entropy(share, temperature):
    for logits in rows():
        p = probabilities(logits, temperature)
        surprise = -np.log(p)
        shift = np.abs(surprise - (p * surprise).sum())
        order = np.argsort(shift, kind="stable")
        sums = np.cumsum(p[order])
        least = int(np.searchsorted(sums, share - SLACK)) + 1
        most = min(int(np.searchsorted(sums, share + SLACK)) + 1, p.size)
        token, kept = drawn(logits, typical_p=share, temperature=temperature)
        assert least <= len(kept) <= most
        assert token in kept
        assert max(shift[sorted(kept)]) <= shift[order[len(kept) - 1]] + SLACK


@pytest.mark.parametrize("count", [0.5, 1.0, 2.5])
def test_top_n_sigma_keeps_what_is_near_the_best(count):
    for logits in rows():
        values = logits.astype(np.float64)
        floor = values.max() - count * values.std()
        expected = set(np.flatnonzero(values >= floor).tolist())
        token, kept = drawn(logits, top_n_sigma=count, temperature=1.7)
        assert kept == expected
        assert token in kept


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3])
def test_xtc_leaves_the_least_likely_of_the_top_choices(threshold):
    for logits in rows():
        p = probabilities(logits)
        top = np.flatnonzero(p >= threshold)
        expected = set(range(p.size)) - set(top.tolist())
        if top.size:
            expected.add(int(top[np.argmin(p[top])]))
        _, kept = drawn(logits, xtc_probability=1.0, xtc_threshold=threshold)
        assert {token for token in expected if p[token] > 1e-20} <= kept <= expected
    logits = np.float32([3, 2.9, 2.8, 0, 0])
    acts = [0 not in drawn(logits, seed=seed, xtc_probability=0.3)[1] for seed in range(400)]
    assert 0.22 < np.mean(acts) < 0.38


@pytest.mark.parametrize("tau", [0.3, 1.0, 3.0])
def test_mirostat_cuts_off_what_is_too_surprising(tau):
    for logits in rows():
        surprise = -np.log2(probabilities(logits))
        if np.any(np.abs(surprise - 2 * tau) < SLACK):
            continue
        expected = set(np.flatnonzero(surprise <= 2 * tau).tolist()) | {int(logits.argmax())}
        token, kept = drawn(logits, mirostat=(tau, 0.1))
        assert kept == expected
        assert token in kept


def test_cuts_follow_one_another_and_greedy_rows_have_none():
    everything = {
        "top_n_sigma": 1.0,
        "typical_p": 0.5,
        "xtc_probability": 1.0,
        "xtc_threshold": 0.01,
        "mirostat": (0.5, 0.1),
    }
    for logits in rows():
        token, kept = drawn(logits, top_k=5, **everything)
        assert 1 <= len(kept) <= 5
        assert token in kept
        assert drawn(logits, temperature=0.0, **everything)[0] == int(logits.argmax())


def naive_dry(history, multiplier, base, allowed, breakers):
    penalties = {}
    for end in range(1, len(history)):
        length = 0
        while length < end and history[end - 1 - length] == history[-1 - length]:
            if history[-1 - length] in breakers:
                break
            length += 1
        if length and length >= allowed:
            penalty = multiplier * base ** (length - allowed)
            penalties[history[end]] = max(penalties.get(history[end], 0.0), penalty)
    return penalties


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_run_of_tokens_occurs_twice(size):
    generator = np.random.default_rng(7)
    for length in (1, 2, 7, 8, 9, 31, 32, 33):
        history = generator.integers(0, 3, length).tolist()
        runs = {tuple(history[at : at + size]) for at in range(length - size + 1)}
        banned = {token for token in range(4) if (*history, token)[-size:] in runs}
        token, kept = drawn(np.zeros(4, np.float32), history, no_repeat_ngram_size=size)
        assert kept == set(range(4)) - banned
        assert (token is None) == (len(banned) == 4)


def test_dry_lowers_what_would_go_on_with_a_repetition():
    generator = np.random.default_rng(9)
    for length in (1, 2, 7, 8, 9, 31, 32, 33):
        for breakers in ([], [1]):
            for last_n in (None, 5):
                history = generator.integers(0, 4, length).tolist()
                seen = history if last_n is None else history[-last_n:]
                penalties = naive_dry(seen, 0.8, 1.75, 2, breakers)
                logits = np.float32(generator.normal(0, 1, 5))
                expected = logits.astype(np.float64)
                for token, penalty in penalties.items():
                    expected[token] -= penalty
                dry = (0.8, 1.75, 2, last_n, breakers)
                token, _ = drawn(logits, history, temperature=0.0, dry=dry)
                assert token == int(expected.argmax())
