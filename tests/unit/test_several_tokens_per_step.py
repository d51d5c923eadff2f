"""A step may bring several tokens of a sequence: callers get what they get token by token."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tests.unit.answers import assert_answers, shape
from tests.unit.fakes import assert_idle, continuation, fake_model, text_of

from inferlib import SamplingParams
from inferlib._core import TextStreams
from inferlib.request import Request
from inferlib.request_texts import RequestTexts
from inferlib.testing import byte_tokenizer

STORY = text_of("x", 40)
STOP = STORY[9:12]
NUM_TOKENS_TO_STOP = len(STORY[:12].encode())
OPTIONS = [
    {"max_tokens": 1},
    {"max_tokens": 10},
    {"max_tokens": 40, "stop": STOP},
    {"max_tokens": 40, "stop": [STOP, STORY[8:10]]},
    {"max_tokens": 40, "stop": STOP, "include_stop_str_in_output": True},
    {"max_tokens": 40, "stop": STORY[2:4], "min_tokens": 6},
    {"max_tokens": NUM_TOKENS_TO_STOP, "stop": STOP},
    {"max_tokens": 40, "stop_token_ids": [ord(",")]},
    {"max_tokens": 40, "stop_token_ids": [ord(",")], "stop": STORY[3:5]},
    {"max_tokens": 20, "logprobs": 1, "n": 3, "stop": STOP},
    {"max_tokens": 10, "detokenize": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("eos_after", [None, 11])
def test_results_and_deltas_are_those_of_single_tokens(options, eos_after):
    with fake_model() as model:
        model.executor.eos_after = eos_after
        expected = shape(model.generate("x", **options))
    for tokens_per_step in (2, 3, 7, 64):
        with fake_model(tokens_per_step=tokens_per_step) as model:
            model.executor.eos_after = eos_after
            assert_answers(model, expected, **options)


def test_a_stop_string_that_ends_with_the_last_token_is_a_stop():
    with fake_model() as model:
        completion = model.generate("x", max_tokens=NUM_TOKENS_TO_STOP, stop=STOP)
        assert (completion.finish_reason, completion.stop_reason) == ("stop", STOP)


def test_several_tokens_come_as_one_delta():
    with fake_model(tokens_per_step=5) as model:
        deltas = list(model.stream("x", max_tokens=20))
        assert [len(delta.token_ids) for delta in deltas] == [5, 5, 5, 5]
        assert model.executor.num_runs == 4


def test_a_token_that_is_none_ends_the_text_there():
    texts = RequestTexts(TextStreams(byte_tokenizer()))
    requests = {}
    for request_id in (3, 4):
        request = Request(
            prompt=None,
            prompt_token_ids=[1],
            params=SamplingParams(stop="c!").resolve({}),
            scheduler_params=None,
            ids=[request_id],
        )
        requests[request_id] = request
        texts.open(request)
    events = SimpleNamespace(
        request_ids=np.array([3, 3, 3, 3, 4, 4, 4, 4], np.int64),
        sequence_indices=np.zeros(8, np.int32),
        token_indices=np.array([5, 6, 7, 8, 0, 1, 2, 3], np.int32),
        token_ids=np.array([*b"a", 999, *b"c!", *b"bc!", 999], np.int32),
        finished=np.array([False] * 7 + [True]),
    )
    ends = texts.advance(events, requests)
    first, second = (request.text_keys[0] for request in requests.values())
    assert sorted(end[:3] for end in ends) == [(first, 7, None), (second, 3, 0)]
    for request, expected in zip(requests.values(), ("a", "b"), strict=True):
        texts.end(request, 0)
        assert request.text(0) == expected


def test_threads_that_stream_never_see_what_a_stop_string_takes_back():
    expected = list(continuation([256, *b"x"])[:NUM_TOKENS_TO_STOP])
    with fake_model(tokens_per_step=7) as model:
        failures = []

        def read():
            for _ in range(50):
                stream = model.stream("x", max_tokens=60, stop=STOP)
                tokens = [token for delta in stream for token in delta.token_ids]
                if tokens != expected:
                    failures.append(tokens)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert_idle(model)


def test_an_event_loop_reads_the_same():
    async def read(model):
        return [delta async for delta in model.astream("x", max_tokens=60, stop=STOP)]

    with fake_model(tokens_per_step=7) as model:
        deltas = asyncio.run(read(model))
        assert "".join(delta.text for delta in deltas) == STORY[:9]
        assert sum(len(delta.token_ids) for delta in deltas) == NUM_TOKENS_TO_STOP
        assert_idle(model)
