"""Sequences and beam search in exact precision, for a tiny checkpoint of each family.

Against transformers' float32 results: its greedy continuations, and what its beam search finds
(``tests/golden/make_beams.py``); then against a beam search written the way transformers writes
it (flat arrays of running and of finished beams), on float64 logits of ``tests/reference.py``.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.checkpoints import DECODERS, TINY, reference_executor

from inferlib import Model

TOLERANCE = 1e-3
NEVER = -1e9
"""Transformers' score of a beam that is none."""


def answer(completion):
    """Everything that must be equal, bit for bit."""
    rows = [sorted((t, e.logprob, e.rank) for t, e in row.items()) for row in completion.logprobs]
    return completion.token_ids, rows


@pytest.mark.parametrize("case", DECODERS)
def test_forks_go_on_as_fresh_sequences_do_and_as_transformers_does(case):
    golden = np.load(TINY / case / "reference.npz")
    options = {"temperature": 0, "ignore_eos": True, "logprobs": 2}
    alone = {"enable_prefix_caching": False, "speculation": "off"}
    with (
        Model.from_pretrained(TINY / case, precision="exact", threads=2) as model,
        Model.from_pretrained(TINY / case, precision="exact", threads=1, **alone) as fresh,
    ):
        for token_ids, greedy in zip(golden["input_ids"], golden["greedy"], strict=True):
            prompt, expected = token_ids.tolist(), greedy.tolist()
            count = len(expected)
            with model.prefill(prompt[:-1]) as root:
                root.extend(prompt[-1:])
                forks = root.fork(3)
                found = [fork.generate(max_tokens=count, **options) for fork in forks]
                assert [each.token_ids for each in found] == [expected] * 3
                alone_found = answer(fresh.generate(prompt, max_tokens=count, **options))
                assert [answer(each) for each in found] == [alone_found] * 3
                # A fork that went another way, and back.
                first = forks[0]
                first.rewind(count // 2)
                first.extend([5, 6])
                first.rewind(2)
                rest = first.generate(max_tokens=count - count // 2, **options)
                assert [*expected[: count - count // 2], *rest.token_ids][:count] == expected
                assert answer(rest)[1][: count // 2] == alone_found[1][count - count // 2 :]
                for fork in forks:
                    fork.close()


BEAMS = json.loads((TINY.parent / "beams.json").read_text("utf8"))["cases"]


@pytest.mark.parametrize("case", DECODERS)
def test_beam_search_finds_what_transformers_found(case):
    """Token by token and in its order, unless two of its scores are too near to order them."""
    for search in BEAMS[case]:
        expected = search["results"]
        ends = () if search["end"] is None else (search["end"],)
        with Model.from_pretrained(TINY / case, precision="exact", threads=1) as model:
            object.__setattr__(model._parts.builder, "eos_token_ids", ends)
            found = model.beam_search(
                search["prompt"],
                num_beams=search["num_beams"],
                max_tokens=search["max_tokens"],
                length_penalty=search["length_penalty"],
            )
        assert [output.score for output in found] == pytest.approx(
            [each["score"] for each in expected], abs=TOLERANCE
        )
        scores = [each["score"] for each in expected]
        if min(np.diff(sorted(scores))) > 2 * TOLERANCE:
            assert [o.token_ids for o in found] == [each["token_ids"] for each in expected]
        else:
            assert sorted(o.token_ids for o in found) == sorted(e["token_ids"] for e in expected)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def transformers_beam_search(logprobs, num_beams, max_tokens, penalty, end):
    """``[(score, tokens)]``, best first.

    Args:
        logprobs: Of the token that follows each of some lists of tokens, ``[lists, vocab_size]``.
        num_beams: Beams, and results.
        max_tokens: Longest result.
        penalty: ``length_penalty``.
        end: End token, if there is one.

    Source: ``GenerationMixin._beam_search`` of transformers 5 with ``early_stopping=False``.
    """
    running = [[] for _ in range(num_beams)]
    running_scores = np.array([0.0] + [NEVER] * (num_beams - 1))
    finished, finished_scores = [[]] * num_beams, np.full(num_beams, NEVER)
    for length in range(1, max_tokens + 1):
        scores = logprobs(running) + running_scores[:, None]
        order = np.argsort(-scores, axis=None, kind="stable")[: 2 * num_beams]
        beams, tokens = np.unravel_index(order, scores.shape)
        best = scores.ravel()[order]
        sequences = [[*running[b], int(t)] for b, t in zip(beams, tokens, strict=True)]
        hits = (tokens == end) | (length == max_tokens)
        # The best that go on.
        keep = np.argsort(-(best + hits * NEVER), kind="stable")[:num_beams]
        running = [sequences[i] for i in keep]
        running_scores = (best + hits * NEVER)[keep]
        # Of the first `num_beams`, those that end now, among those that ended before.
        ended = hits & (np.arange(2 * num_beams) < num_beams)
        merged = np.concatenate([finished_scores, np.where(ended, best / length**penalty, NEVER)])
        keep = np.argsort(-merged, kind="stable")[:num_beams]
        finished = [[*finished, *sequences][i] for i in keep]
        finished_scores = merged[keep]
        full = (finished_scores > NEVER / 2).all()
        if hits.all() or (full and running_scores[0] / length**penalty <= finished_scores.min()):
            break
    return [
        (score, ids)
        for score, ids in zip(finished_scores, finished, strict=True)
        if score > NEVER / 2
    ]


@pytest.fixture(scope="module", params=["gemma3", "llama", "qwen3"])
def float64(request):
    """A checkpoint, a prompt, and the log-probabilities behind the prompt and some tokens."""
    path = TINY / request.param
    executor = reference_executor(path)
    prompt = np.load(path / "reference.npz")["input_ids"][0].tolist()[:12]
    known: dict[tuple[int, ...], np.ndarray] = {}

    def logprobs(lists):
        new = {tuple(ids) for ids in lists} - known.keys()
        chunks = {len(known) + i: [*prompt, *ids] for i, ids in enumerate(sorted(new))}
        if new:
            rows = log_softmax(executor.run(chunks).logits)
            known.update(zip(sorted(new), rows, strict=True))
        return np.stack([known[tuple(ids)] for ids in lists])

    return path, prompt, logprobs


@pytest.mark.parametrize(
    ("num_beams", "penalty", "ends"),
    [(1, 1.0, False), (3, 1.0, False), (4, 0.0, True), (2, 2.0, True)],
)
def test_beam_search_finds_what_that_of_transformers_finds(float64, num_beams, penalty, ends):
    path, prompt, logprobs = float64
    # An end token that comes up: one of those that a search without any finds.
    free = transformers_beam_search(logprobs, num_beams, 5, penalty, None)
    end = free[-1][1][2] if ends else None
    expected = transformers_beam_search(logprobs, num_beams, 7, penalty, end)
    with Model.from_pretrained(path, precision="exact", threads=1) as model:
        object.__setattr__(model._parts.builder, "eos_token_ids", () if end is None else (end,))
        found = model.beam_search(prompt, num_beams=num_beams, max_tokens=7, length_penalty=penalty)
    assert [output.token_ids for output in found] == [ids for _, ids in expected]
    assert [output.score for output in found] == pytest.approx(
        [score for score, _ in expected], abs=TOLERANCE
    )
    if ends and penalty == 0:  # nothing is gained by going on
        assert any(output.finish_reason == "stop" for output in found)
