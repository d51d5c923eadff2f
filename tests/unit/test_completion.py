"""Results as plain data."""

from __future__ import annotations

import json
import math
import sys
from types import ModuleType

import pytest

from inferlib import (
    Completion,
    CompletionOutput,
    Delta,
    Logprob,
    MissingExtraError,
    SamplingParams,
    Timings,
    ToolCall,
    Usage,
)


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


def test_confidence_is_the_geometric_mean_probability(completion):
    assert completion.confidence == pytest.approx(math.sqrt(math.exp(-0.5) * math.exp(-1.0)))
    assert completion.outputs[1].confidence is None
    assert output(0, token_ids=[], logprobs=[]).confidence is None


def test_a_record_per_token(completion):
    records = [record for each in completion.outputs for record in each.to_records()]
    assert records[1] == {
        "output": 0,
        "position": 1,
        "token_id": 6,
        "token": "xt",
        "logprob": -1.0,
        "probability": math.exp(-1.0),
        "rank": 2,
    }
    assert (records[2]["output"], records[2]["token"], records[2]["logprob"]) == (1, None, None)


def test_pandas_gets_the_records(completion, monkeypatch):
    class DataFrame:
        @classmethod
        def from_records(cls, records, columns):
            frame = cls()
            frame.rows = [[record[name] for name in columns] for record in records]
            frame.columns = columns
            return frame

    pandas = ModuleType("pandas")
    pandas.DataFrame = DataFrame
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    frame = completion.to_pandas()
    assert len(frame.rows) == 4
    assert frame.rows[0][:4] == [0, 0, 5, "te"]
    assert list(completion.outputs[0].to_records()[0]) == frame.columns


def test_without_pandas_the_error_names_the_extra(completion, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"inferlib\[pandas\]") as raised:
        completion.to_pandas()
    assert raised.value.extra == "pandas"
    assert isinstance(raised.value, ImportError)


def test_a_message_has_only_what_there_is():
    assert output(0).to_message() == {"role": "assistant", "content": "text"}
    call = ToolCall(name="add", arguments={}, id="1", raw_text="")
    message = output(0, "", reasoning="hm", tool_calls=[call]).to_message()
    assert message["content"] == ""
    assert message["reasoning_content"] == "hm"
    assert message["tool_calls"] == [call.to_dict()]


def test_a_receipt_knows_no_calls():
    assert output(0, finish_reason="tool_calls").to_receipt().finish_reason == "stop"
