"""Results as plain data."""

from __future__ import annotations

import json
import math

import pytest

from inferlib import Completion, CompletionOutput, Delta, Logprob, SamplingParams, Timings, Usage


def output(index, text="text", **changes):
    fields = {
        "index": index,
        "text": text,
        "token_ids": [5, 6],
        "logprobs": [
            {5: Logprob(-0.5, 1, "te")},
            {6: Logprob(-1.0, 2, "xt"), 7: Logprob(0, 1, "")},
        ],
        "finish_reason": "stop",
        "stop_reason": "x",
    }
    return CompletionOutput(**fields | changes)


@pytest.fixture
def completion():
    timings = Timings(
        queued=0.1,
        prefill=0.2,
        first_token=0.3,
        first_visible_token=None,
        total=1.0,
        inter_token_latency=None,
        tokens_per_second=2.0,
        num_preemptions=0,
    )
    return Completion(
        prompt="a",
        prompt_token_ids=[1, 2],
        outputs=[output(0), output(1, "other", logprobs=None, stop_reason=None)],
        prompt_logprobs=[None, {2: Logprob(-2.0, 3, "b")}],
        timings=timings,
        usage=Usage(prompt_tokens=2, cached_tokens=1, output_tokens=4),
        params=SamplingParams(stop=["x"], logit_bias={1: 2.0}),
    )


def test_the_first_output_is_at_the_top(completion):
    first = completion.outputs[0]
    assert (completion.text, completion.token_ids) == (first.text, first.token_ids)
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "x")
    assert completion.logprobs is first.logprobs
    assert completion.num_cached_tokens == 1
    assert completion.usage.total_tokens == 6


def test_cumulative_logprob_is_that_of_the_drawn_tokens(completion):
    assert completion.outputs[0].cumulative_logprob == -1.5
    assert completion.outputs[1].cumulative_logprob is None


def test_everything_is_json(completion):
    data = json.loads(json.dumps(completion.to_dict()))
    assert data["outputs"][0]["logprobs"][1]["6"] == {
        "logprob": -1.0,
        "rank": 2,
        "decoded_token": "xt",
    }
    assert data["outputs"][1]["logprobs"] is None
    assert data["prompt_logprobs"][0] is None
    assert data["timings"]["tokens_per_second"] == 2.0
    assert data["usage"]["total_tokens"] == 6
    assert data["params"]["logit_bias"] == {"1": 2.0}


def test_long_texts_have_short_names():
    assert len(repr(output(0, "x" * 10_000))) < 200
    delta = Delta(
        index=0, text="x", token_ids=[1], logprobs=None, finish_reason=None, stop_reason=None
    )
    assert repr(delta) == "Delta('x')"
    assert str(delta) == "x"
    assert json.dumps(delta.to_dict())


def test_results_are_frozen(completion):
    with pytest.raises(AttributeError):
        completion.prompt = "b"
    assert math.isclose(completion.timings.total, 1.0)
