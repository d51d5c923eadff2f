"""The sampling kernel: the kept set and the drawn token, against a plain sort in float64."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda.launching import Out, run

i32, f32 = np.int32, np.float32


def philox(seed, sequence, position):
    """The first 64 bits of Philox4x32-10."""
    counter, key = [position, sequence, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & 0xFFFFFFFF,
            first >> 32 ^ counter[3] ^ key[1],
            first & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter[1] << 32 | counter[0]


def kept(logits, temperature, top_k, top_p, min_p):
    """Which tokens may be drawn, and with what weights: by sorting."""
    values = logits.astype(np.float64)
    order = np.lexsort((np.arange(len(values)), -values))
    if temperature == 0:
        return order[:1], np.ones(1)
    weights = np.exp((values - values.max()) / temperature)
    if top_k:
        order = order[:top_k]
    running = np.cumsum(weights[order])
    if top_p < 1:
        share = float(f32(top_p)) * (1 - 2.0**-24)
        order = order[: int(np.searchsorted(running, share * running[-1])) + 1]
    order = order[weights[order] >= min_p]
    order = np.sort(order)
    return order, weights[order]


def sample(logits, settings, seeds, sequences, positions):
    rows, vocab_size = logits.shape
    temperature, top_k, top_p, min_p = zip(*settings, strict=True)
    words = np.array(seeds, np.uint64).view(np.uint32).reshape(rows, 2)
    return run(
        "sample_f32",
        (rows,),
        1024,
        [
            *(Out((rows,), i32), Out((rows,), i32), logits, np.array(temperature, f32)),
            *(np.array(top_k, i32), np.array(top_p, f32), np.array(min_p, f32), words),
            *(np.array(sequences, i32), np.array(positions, i32), i32(vocab_size)),
        ],
        seeds=(0, 1, 2),
    )


SETTINGS = [
    (1.0, 0, 1.0, 0.0),
    (0.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.8, 0.0),
    (1.0, 0, 1.0, 0.05),
    (0.9, 40, 0.95, 0.02),
    (2.0, 1, 0.5, 0.9),
    (1.0, 100_000, 0.999, 0.0),
]


@pytest.mark.parametrize("vocab_size", [1, 33, 1024, 3001])
def test_the_token_is_the_one_that_a_sort_would_draw(vocab_size):
    generator = np.random.default_rng(vocab_size)
    logits = (3 * generator.standard_normal((len(SETTINGS), vocab_size))).astype(f32)
    seeds = generator.integers(0, 2**64, len(SETTINGS), np.uint64)
    sequences, positions = np.arange(len(SETTINGS)), generator.integers(0, 5000, len(SETTINGS))
    ids, failed = sample(logits, SETTINGS, seeds, sequences, positions)
    assert not failed.any()
    for row, settings in enumerate(SETTINGS):
        tokens, weights = kept(logits[row], *settings)
        bits = philox(int(seeds[row]), int(sequences[row]), int(positions[row]))
        running = np.cumsum(weights)
        place = bits / 2**64 * running[-1]
        expected = tokens[min(int(np.searchsorted(running, place, side="right")), len(tokens) - 1)]
        assert ids[row] == expected, settings


def test_ties_at_a_cut_keep_the_lower_ids():
    logits = np.zeros((30, 10), f32)
    logits[:, 7] = 1
    for settings, allowed in (
        ((1.0, 4, 1.0, 0.0), {7, 0, 1, 2}),
        # Weights e, 1, 1, …: half of 2.718 + 9 is reached with the best and four others.
        ((1.0, 0, 0.5, 0.0), {7, 0, 1, 2, 3}),
        ((1.0, 0, 1.0, 0.5), {7}),
    ):
        seeds = np.arange(30, dtype=np.uint64)
        ids, _ = sample(logits, [settings] * 30, seeds, *np.zeros((2, 30)))
        assert set(ids.tolist()) == allowed


def test_tokens_come_as_often_as_their_weights_say():
    weights = np.array([0.5, 0.25, 0.125, 0.125])
    logits = np.tile(np.log(weights).astype(f32), (200, 1))
    seeds = np.full(200, 9, np.uint64)
    ids, _ = sample(logits, [(1.0, 0, 1.0, 0.0)] * 200, seeds, np.zeros(200), np.arange(200))
    counts = np.bincount(ids, minlength=4)
    chi_square = ((counts - 200 * weights) ** 2 / (200 * weights)).sum()
    assert chi_square < 16.3  # three degrees of freedom, p = 0.001


def test_rows_that_are_no_distribution_fail_alone():
    logits = np.zeros((4, 50), f32)
    logits[0, 3] = np.nan
    logits[1, 3] = np.inf
    logits[2] = -np.inf
    logits[3, 1:] = -np.inf
    ids, failed = sample(
        logits, [(1.0, 0, 0.9, 0.0)] * 4, np.zeros(4, np.uint64), *np.zeros((2, 4))
    )
    assert failed.tolist() == [1, 1, 1, 0]
    assert ids.tolist() == [0, 0, 0, 0]
