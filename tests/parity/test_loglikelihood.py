"""``loglikelihood`` and forced tokens in exact precision against transformers' float32 results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.checkpoints import DECODERS, TINY
from tests.real_models import real_model

from inferlib import Model

REAL = Path(__file__).parent.parent / "golden" / "data" / "real"
TOLERANCE = 1e-3
SMALL_MARGIN = 1e-3


@pytest.mark.parametrize("case", DECODERS)
def test_every_split_of_a_text_has_the_scores_of_transformers(case):
    golden = np.load(TINY / case / "reference.npz")
    with Model.from_pretrained(TINY / case, precision="exact", threads=2) as model:
        for token_ids, logits in zip(golden["input_ids"], golden["logits"], strict=True):
            ids, logits = token_ids.tolist(), logits.astype(np.float64)
            shifted = logits - logits.max(-1, keepdims=True)
            logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            expected = [logprobs[i - 1, ids[i]] for i in range(1, len(ids))]
            greedy = logits.argmax(-1)
            splits = range(1, len(ids))
            found = model.loglikelihood(
                [ids[:split] for split in splits], [ids[split:] for split in splits]
            )
            for split, score in zip(splits, found, strict=True):
                assert score.tokens == pytest.approx(expected[split - 1 :], abs=TOLERANCE)
                assert score.total == pytest.approx(sum(expected[split - 1 :]), abs=TOLERANCE)
                assert score.is_greedy == (greedy[split - 1 : -1] == ids[split:]).all()
            with model.prefill(ids[:3]) as sequence:
                rows = sequence.force(ids[3:])
                forced = [row[i].logprob for row, i in zip(rows, ids[3:], strict=True)]
                assert forced == pytest.approx(expected[2:], abs=TOLERANCE)


@pytest.mark.timeout(300)
def test_a_real_models_greedy_answers_are_greedy_and_its_prompts_have_their_scores():
    golden = np.load(REAL / "smollm2.npz")
    count = sum(name.startswith("ids_") for name in golden.files)
    with Model.from_pretrained(
        real_model("smollm2"), precision="exact", kv_cache="8k tokens"
    ) as model:
        contexts, continuations, expected = [], [], []
        for i in range(count):
            ids, split = golden[f"ids_{i}"].tolist(), 1 + len(golden[f"ids_{i}"]) // 2
            contexts.append(ids[:split])
            continuations.append(ids[split:] or [1])
            best = zip(golden[f"top_ids_{i}"], golden[f"top_logprobs_{i}"], strict=True)
            expected.append([dict(zip(*row, strict=True)) for row in best][split - 1 : -1])
        num_compared = 0
        for score, rows in zip(model.loglikelihood(contexts, continuations), expected, strict=True):
            for token, logprob, row in zip(score.token_ids, score.tokens, rows, strict=False):
                if token in row:
                    assert abs(logprob - row[token]) <= 2 * TOLERANCE
                    num_compared += 1
        assert num_compared > 100

        prompts = [golden[f"ids_{i}"].tolist() for i in range(count)]
        answers, clear = [], []
        for i in range(count):
            unclear = np.nonzero(golden[f"margin_{i}"] < SMALL_MARGIN)[0]
            clear.append(int(unclear[0]) if len(unclear) else 64)
            answers.append(golden[f"greedy_{i}"][: max(clear[-1], 1)].tolist())
        scores = model.loglikelihood(prompts, answers)
        assert all(score.is_greedy for score, n in zip(scores, clear, strict=True) if n)
