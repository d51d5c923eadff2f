"""The decision log from Python: written by a model, verified by ``replay-log``."""

import json

import pytest

from inferlib import DecisionLogError, RequestError, _core, cli
from inferlib.testing import tiny_model


@pytest.fixture
def log(tmp_path):
    """The log of a few requests, some cancelled, late, or going on from a sequence."""
    path = tmp_path / "decisions.log"
    with tiny_model(
        decision_log=path,
        scheduling_policy="fair",
        max_num_seqs=2,
        kv_cache="256 tokens",
        max_model_len=200,
    ) as model:
        handles = [
            model.submit([index, 7, 9] * 10, max_tokens=20, tenant="ab"[index % 2], n=1 + index % 2)
            for index in range(5)
        ]
        handles[3].cancel()
        late = model.submit([1, 2], max_tokens=20, deadline=0)
        with model.prefill("hello") as sequence, sequence.fork()[0] as fork:
            fork.generate(max_tokens=4)
            fork.rewind(2)
        for handle in [*handles, late]:
            handle.result()
        model.generate("x", max_tokens=30, logprobs=2, stop=["a"])
        assert model.generate("x", abstain_below=1.0).finish_reason == "abstain"
        stats = model.stats()
    return path, stats


def test_a_models_log_replays(log):
    path, stats = log
    facts = _core.replay_decisions(path)
    assert facts["policy"] == "fair"
    assert facts["num_blocks"] == [16]
    assert facts["num_unfinished_seqs"] == 0
    for name in ("requests", "finished_requests", "steps", "output_tokens", "preemptions"):
        own = {"finished_requests": "finished"}.get(name, name)
        assert facts[f"num_{own}"] == stats[name], name


def test_the_command_line_verifies_it(log, capsys):
    path, _ = log
    assert cli.main(["replay-log", str(path)]) == 0
    assert "every decision came out the same" in capsys.readouterr().out
    assert cli.main(["replay-log", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_requests"] >= 8


def test_a_damaged_log_is_refused_and_says_where(log, capsys):
    path, _ = log
    content = path.read_bytes()
    damaged = path.with_name("damaged.log")
    damaged.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(DecisionLogError, match="checksum") as raised:
        _core.replay_decisions(damaged)
    assert raised.value.record > 0
    assert 0 < raised.value.offset <= 200
    damaged.write_bytes(content[:-1])
    assert cli.main(["replay-log", str(damaged)]) == 1
    assert "ends in the middle of a record" in capsys.readouterr().err
    with pytest.raises(DecisionLogError, match="allowed"):
        _core.replay_decisions(path, max_bytes=100)
    damaged.write_bytes(b"GGUF")
    with pytest.raises(DecisionLogError, match="no decision log"):
        _core.replay_decisions(damaged)
    with pytest.raises(DecisionLogError, match="cannot read"):
        _core.replay_decisions(path.with_name("missing.log"))


def test_a_log_is_never_written_over_another(log):
    path, _ = log
    content = path.read_bytes()
    with pytest.raises(RequestError, match="decision log") as raised:
        tiny_model(decision_log=path)
    assert raised.value.field == "decision_log"
    assert path.read_bytes() == content
    with pytest.raises(RequestError, match="path") as raised:
        tiny_model(decision_log=3)
    assert raised.value.field == "decision_log"
