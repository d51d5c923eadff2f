"""KL divergence from lists of the likeliest tokens, against whole distributions."""

from __future__ import annotations

import numpy as np
import pytest
from bench.divergence import Divergence, TopLogprobs


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.fixture
def logits():
    random = np.random.default_rng(0)
    reference = random.normal(0, 3, (40, 300)).astype(np.float32)
    return reference, reference + random.normal(0, 0.1, reference.shape).astype(np.float32)


def between(reference, model, top):
    lists = (TopLogprobs.from_logits(each, top) for each in (reference, model))
    return Divergence.between(*lists)


def test_logprobs_are_over_the_whole_vocabulary(logits):
    scores = TopLogprobs.from_logits(logits[0], 20)
    expected = np.take_along_axis(log_softmax(logits[0]), scores.token_ids, -1)
    np.testing.assert_allclose(scores.logprobs, expected, atol=1e-5)
    assert (scores.best() == logits[0].argmax(-1)).all()
    assert (scores.logprobs.min(-1) >= np.sort(log_softmax(logits[0]))[:, -20] - 1e-5).all()


def test_with_the_whole_vocabulary_it_is_the_kl_divergence(logits):
    p, q = map(log_softmax, logits)
    exact = (np.exp(p) * (p - q)).sum(-1)
    found = between(*logits, 300)
    np.testing.assert_allclose(found.kld, exact, rtol=1e-3, atol=1e-7)
    assert found.tail_mass.max() < 1e-6
    assert (found.same_best == (logits[0].argmax(-1) == logits[1].argmax(-1))).all()


def test_with_a_part_of_it_it_is_a_lower_bound_that_grows(logits):
    p, q = map(log_softmax, logits)
    exact = (np.exp(p) * (p - q)).sum(-1)
    few, many = between(*logits, 30), between(*logits, 200)
    assert (few.kld <= exact + 1e-6).all()
    assert few.kld.mean() < many.kld.mean() <= exact.mean() + 1e-6
    assert few.tail_mass.mean() > many.tail_mass.mean() > 0


def test_equal_models_do_not_diverge(logits):
    found = between(logits[0], logits[0], 50)
    assert found.kld.max() < 1e-6
    assert found.same_best.all()


def test_models_with_nothing_in_common_diverge_by_the_rest():
    reference = TopLogprobs(np.array([[1, 2]], np.int32), np.log([[0.6, 0.3]]).astype(np.float32))
    model = TopLogprobs(np.array([[3, 4]], np.int32), np.log([[0.5, 0.5]]).astype(np.float32))
    found = Divergence.between(reference, model)
    assert found.tail_mass[0] == 1
    assert found.kld[0] == 0  # all of both is "the rest": a lower bound, and it says so


def test_one_token_by_hand():
    reference = TopLogprobs(np.array([[7]], np.int32), np.log([[0.75]]).astype(np.float32))
    model = TopLogprobs(np.array([[7]], np.int32), np.log([[0.5]]).astype(np.float32))
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert Divergence.between(reference, model).kld[0] == pytest.approx(expected)


def test_the_summary_is_over_all_parts(logits):
    parts = [between(*logits, 300), between(logits[0], logits[0], 300)]
    summary = Divergence.joined(parts).summary()
    assert summary["positions"] == 80
    assert summary["kld_mean"] == pytest.approx(parts[0].kld.mean() / 2, rel=1e-3)
    assert summary["kld_max"] == parts[0].kld.max()
    assert 0.5 <= summary["same_top1"] <= 1


def test_lists_survive_a_file(logits, tmp_path):
    scores = TopLogprobs.from_logits(logits[0], 20)
    scores.save(str(tmp_path / "scores.npz"))
    read = TopLogprobs.load(str(tmp_path / "scores.npz"))
    assert (read.token_ids == scores.token_ids).all()
    assert (read.logprobs == scores.logprobs).all()
