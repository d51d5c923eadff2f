"""Bit for bit the same tokens and log-probabilities for every size of batch and of chunk.

With one thread and with two, drafted and not; prompts too, whose log-probabilities see every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.quantized_checkpoints import VOCAB_SIZE, write_random_llama
from tests.real_models import real_model

from inferlib import Model, PromptLookup

if TYPE_CHECKING:
    from pathlib import Path

CHUNKS = (1, 2, 3, 7, 16, 17, 64, 128, 512)
BATCHES = range(1, 33)
DRAFTS = PromptLookup(num_speculative_tokens=7, rows_per_pass=48)
"""Of many sequences at once."""
THREADS_AND_SPECULATION = tuple(product((1, 2), ("off", DRAFTS)))
MIXED = ("Q4_K", "Q8_0", "F16", "Q4_1", "Q6_K", "MXFP4", "Q5_0")
"""Types of the tiny model's matrices: codes with and without minima, halves, bytes, floats."""

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its requests, and what each gives alone."""

    path: Path
    precision: str
    prompts: list[list[int]]
    max_tokens: int
    alone: list[object]

    def check(self, model: Model, *numbers: int) -> None:
        """Send these requests at once."""
        handles = [
            model.submit(self.prompts[i], **options(i), max_tokens=self.max_tokens) for i in numbers
        ]
        answers = [answer(handle.result()) for handle in handles]
        assert answers == [self.alone[i] for i in numbers], f"requests {numbers}"

    def model(self, **changes) -> Model:
        """Nothing is taken from the prefix cache: all is computed."""
        fixed = {"precision": self.precision, "enable_prefix_caching": False}
        return Model.from_pretrained(self.path, **fixed, **changes)


def prompts_of(vocab_size: int, lengths: list[int]) -> list[list[int]]:
    """Every other one repeats itself, so that something can be drafted."""
    random = np.random.default_rng(21)
    prompts = [random.integers(3, vocab_size, length).tolist() for length in lengths]
    for i in range(1, len(prompts), 2):
        prompts[i] = (prompts[i][: 2 + i % 5] * lengths[i])[: lengths[i]]
    return prompts


def options(i: int) -> dict[str, object]:
    """Greedy, sampled and penalised requests, in turns."""
    kinds: list[dict[str, object]] = [
        {"temperature": 0, "prompt_logprobs": 1},
        {"temperature": 0},
        {"temperature": 0.3, "top_p": 0.9, "seed": 50 + i, "prompt_logprobs": 0},
        {"temperature": 0.8, "top_k": 20, "repetition_penalty": 1.1, "seed": 50 + i},
    ]
    return {"logprobs": 2, "ignore_eos": True} | kinds[i % len(kinds)]


def answer(completion):
    """Everything that must be equal, bit for bit."""
    rows = [*(completion.prompt_logprobs or []), *completion.logprobs]
    entries = [
        row and [(token, entry.logprob, entry.rank) for token, entry in sorted(row.items())]
        for row in rows
    ]
    return completion.token_ids, entries


def case_of(path: Path, precision: str, prompts: list[list[int]], max_tokens: int) -> Case:
    """With the answers by definition: one by one, the prompt as one chunk, one thread."""
    fields = {"path": path, "precision": precision, "prompts": prompts, "max_tokens": max_tokens}
    whole = max(map(len, prompts))
    unanswered = Case(**fields, alone=[])
    with unanswered.model(threads=1, speculation="off", max_num_batched_tokens=whole) as model:
        completions = [
            model.generate(prompt, **options(i), max_tokens=max_tokens)
            for i, prompt in enumerate(prompts)
        ]
    return Case(**fields, alone=[answer(completion) for completion in completions])


@pytest.fixture(scope="module", params=["fast", "balanced", "exact"])
def tiny(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_random_llama(path, *MIXED)
    lengths = np.random.default_rng(3).integers(1, 60, len(BATCHES)).tolist()
    return case_of(path, request.param, prompts_of(VOCAB_SIZE, lengths), 12)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Every request's tokens go to experts of their own, with whoever else is there."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_random_llama(path, *MIXED, num_experts=5)
    lengths = np.random.default_rng(6).integers(1, 60, 12).tolist()
    return case_of(path, "fast", prompts_of(VOCAB_SIZE, lengths), 6)


@pytest.fixture(scope="module")
def smollm2():
    """Short requests: what varies is how many there are."""
    lengths = np.random.default_rng(4).integers(1, 10, len(BATCHES)).tolist()
    return case_of(real_model("smollm2"), "fast", prompts_of(40_000, lengths), 5)


@pytest.fixture(scope="module")
def long_smollm2():
    """Few requests, one longer than the largest chunk and an attention segment."""
    prompts = prompts_of(40_000, [530, 41, 9, 18])
    return case_of(real_model("smollm2"), "fast", prompts, 8)


def check_chunks(case: Case, chunk: int, threads: int, speculation: object) -> None:
    """Several requests at once, then some one by one: a step of few tokens has room to draft."""
    changes = {"threads": threads, "speculation": speculation, "max_num_batched_tokens": chunk}
    with case.model(**changes) as model:
        case.check(model, *range(min(20, len(case.prompts))))
        for i in (1, 3):
            case.check(model, i)
        assert (model.stats()["drafted_tokens"] > 0) == (speculation is DRAFTS and chunk > 1)


def check_batches(case: Case, threads: int, speculation: object) -> None:
    with case.model(threads=threads, speculation=speculation) as model:
        for count in BATCHES:
            case.check(model, *range(count))
        assert (model.stats()["drafted_tokens"] > 0) == (speculation is DRAFTS)


def name(value: object) -> str:
    return "drafted" if value is DRAFTS else str(value)


# Small chunks take a step for every few tokens: each size meets some of the rest, in turns.
CHUNKS_IN_TURNS = pytest.mark.parametrize(
    ("chunk", "threads", "speculation"),
    [(chunk, *THREADS_AND_SPECULATION[i % 4]) for i, chunk in enumerate(CHUNKS)],
    ids=name,
)


@CHUNKS_IN_TURNS
def test_chunks_of_any_size_give_the_same_bits(tiny, chunk, threads, speculation):
    check_chunks(tiny, chunk, threads, speculation)


@pytest.mark.parametrize("tiny", ["fast"], indirect=True)
@pytest.mark.parametrize(("threads", "speculation"), THREADS_AND_SPECULATION, ids=name)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunks_give_the_same_bits_with_all_the_rest(tiny, chunk, threads, speculation):
    check_chunks(tiny, chunk, threads, speculation)


@pytest.mark.parametrize(("threads", "speculation"), THREADS_AND_SPECULATION, ids=name)
def test_batches_of_any_size_give_the_same_bits(tiny, threads, speculation):
    check_batches(tiny, threads, speculation)


@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (5, 2), (13, 1), (40, 2), (512, 2)])
def test_chunks_and_batches_of_a_mixture_of_experts_give_the_same_bits(experts, chunk, threads):
    with experts.model(threads=threads, max_num_batched_tokens=chunk, speculation="off") as model:
        for count in (1, 2, 3, 7, 12):
            experts.check(model, *range(count))


@CHUNKS_IN_TURNS
def test_chunks_of_any_size_give_the_same_bits_on_a_real_model(
    long_smollm2, chunk, threads, speculation
):
    check_chunks(long_smollm2, chunk, threads, speculation)


@pytest.mark.parametrize(("threads", "speculation"), [(1, DRAFTS), (2, "off")], ids=name)
def test_batches_of_any_size_give_the_same_bits_on_a_real_model(smollm2, threads, speculation):
    check_batches(smollm2, threads, speculation)
