"""A text's vector is the same, bit for bit, alone and in any list, whatever else runs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.real_models import real_model

from inferlib import Model

CASES = ["bert-embedding", "xlm-roberta-embedding", "qwen3-embedding"]
LENGTHS = [1, 2, 5, 15, 16, 17, 31, 33, 64, 100, 128, 129, 200, 3, 240]


def texts(vocab_size: int = 160) -> list[list[int]]:
    random = np.random.default_rng(11)
    return [random.integers(3, vocab_size, length).tolist() for length in LENGTHS]


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize("case", CASES)
def test_a_vector_does_not_depend_on_how_it_was_made(case, precision):
    how = {"precision": precision, "device": "cpu"}
    given = texts()
    with Model.from_pretrained(TINY / case, threads=1, **how) as model:
        alone = {
            pooling: np.array([model.embed(text, pooling=pooling) for text in given])
            for pooling in ("mean", "last", "cls", "max")
        }
    order = np.random.default_rng(3).permutation(len(given))
    for budget, threads in [(256, 2), (260, 3), (4096, 2)]:
        with Model.from_pretrained(
            TINY / case, threads=threads, max_num_batched_tokens=budget, **how
        ) as model:
            for pooling, vectors in alone.items():
                together = model.embed([given[i] for i in order], pooling=pooling)
                assert together.tobytes() == vectors[order].tobytes(), (pooling, budget, threads)


def test_chunks_of_a_decoder_do_not_matter():
    given = texts()
    with Model.from_pretrained(TINY / "qwen3-embedding", device="cpu") as model:
        expected = model.embed(given, pooling="mean")
    for budget in (1, 7, 33):
        with Model.from_pretrained(
            TINY / "qwen3-embedding", device="cpu", max_num_batched_tokens=budget
        ) as model:
            for _ in range(2):  # the second time with a full prefix cache
                assert model.embed(given, pooling="mean").tobytes() == expected.tobytes()
            assert model.embed(given).tobytes() == model.embed(given[::-1])[::-1].tobytes()


def test_vectors_made_beside_generation_are_the_same():
    given = texts()
    with Model.from_pretrained(TINY / "llama", device="cpu") as model:
        expected = model.embed(given)
        tokens = model.generate([7, 8, 9], max_tokens=100, temperature=0).token_ids
    with Model.from_pretrained(TINY / "llama", device="cpu", max_num_batched_tokens=40) as model:
        found = []
        thread = threading.Thread(target=lambda: found.append(model.embed(given)))
        thread.start()
        beside = model.generate([7, 8, 9], max_tokens=100, temperature=0).token_ids
        thread.join()
    assert beside == tokens
    assert found[0].tobytes() == expected.tobytes()


def test_minilm_alone_and_in_a_list():
    sentences = [f"Sentence {i} is about {'cats and ' * (i % 40)}dogs." for i in range(100)]
    with Model.from_pretrained(real_model("minilm"), device="cpu") as model:
        together = model.embed(sentences)
        for index in (0, 1, 17, 39, 99):
            assert model.embed(sentences[index]).tobytes() == together[index].tobytes()
