"""Rounds: everybody's turn, the same ids for all, and failures that stop nobody else."""

from __future__ import annotations

import pytest
from bench import machine
from bench.comparison.engines import Engine, EngineError
from bench.comparison.rounds import WARM_UP_SEED, Rounds
from bench.comparison.workloads import WORKLOADS, Workload

PREFILL, DECODE = (
    next(each for each in WORKLOADS["smollm2"] if each.name == name)
    for name in ("prefill_128", "decode_16")
)


class FakeProcess:
    def __init__(self, name, log, *, role="peer", fails=()):
        self.engine = Engine(
            name=name, file_format="F", adapter="", python=None, model=None, role=role
        )
        self.log, self.fails = log, fails

    def ask(self, ask, **arguments):
        self.log.append((self.engine.name, ask, arguments))
        if ask in self.fails:
            raise EngineError("it cannot")
        return 0.5

    def cpu_seconds(self):
        return 1.0

    def settle(self):
        return True


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch):
    bandwidths = iter(range(1, 100))
    monkeypatch.setattr(machine, "read_bandwidth", lambda _: float(next(bandwidths)))
    monkeypatch.setattr(machine, "int8_peak", lambda _: 1000.0)


def run(processes, workloads, rounds):
    runner = Rounds(processes, threads=2, seed=7, report=lambda _: None)
    runner.run(workloads, rounds)
    return runner.samples


def test_all_engines_get_the_same_ids_and_new_ones_each_round():
    log = []
    run([FakeProcess(name, log) for name in "ab"], [PREFILL], 2)
    prompts = {}
    for name, _, arguments in log:
        prompts.setdefault(name, []).append(arguments["prompt"])
    assert prompts["a"] == prompts["b"]
    assert prompts["a"][0] != prompts["a"][1]
    assert PREFILL.arguments(WARM_UP_SEED)["prompt"] not in prompts["a"]


def test_each_round_begins_with_another_engine():
    log = []
    run([FakeProcess(name, log) for name in "abc"], [PREFILL], 3)
    assert [name for name, _, _ in log] == [*"abc", *"bca", *"cab"]


def test_answers_become_tokens_per_second():
    samples = run([FakeProcess("a", [])], [PREFILL, DECODE], 2)
    assert samples.tokens_per_second == {"a F": {"prefill_128": [256, 256], "decode_16": [2, 2]}}


def test_what_fails_is_tried_once_and_leaves_a_hole_in_every_round():
    log = []
    samples = run([FakeProcess("a", log, fails=("prefill",)), FakeProcess("b", log)], [PREFILL], 3)
    assert samples.tokens_per_second["a F"]["prefill_128"] == [None, None, None]
    assert samples.tokens_per_second["b F"]["prefill_128"] == [256, 256, 256]
    assert samples.reasons["a F"] == {"prefill_128": "it cannot"}
    assert [name for name, _, _ in log].count("a") == 1


def test_bandwidth_is_read_around_each_engines_decode():
    samples = run([FakeProcess(name, []) for name in "ab"], [PREFILL, DECODE], 2)
    assert samples.read_bandwidth == {"a F": [1.5, 7.5], "b F": [3.5, 5.5]}


def test_the_warm_up_runs_what_is_quick_and_survives_failures():
    log = []
    runner = Rounds([FakeProcess("a", log, fails=("decode",))], threads=2, seed=7, report=print)
    runner.warm_up(WORKLOADS["smollm2"])
    assert {ask for _, ask, _ in log} == {"prefill", "decode"}
    assert runner.samples.tokens_per_second == {}


def test_a_workload_knows_what_seconds_mean():
    serve = Workload(name="s", title="s", ask="serve", num_prompts=4, prompt_tokens=6, num_tokens=4)
    assert serve.tokens_per_second(2) == 20
    batch = Workload(
        name="b", title="b", ask="decode", num_prompts=8, prompt_tokens=64, num_tokens=4
    )
    assert batch.tokens_per_second(0.01) == pytest.approx(800)
