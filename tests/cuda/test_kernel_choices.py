"""Which kernel is launched where several give the same bits: measured by a clock of the test."""

from __future__ import annotations

import json
import logging

import pytest
from tests.cuda.launching import CountedDevice
from tests.cuda.test_reduced_precision import make_model, prompts, wide_spec
from tests.cuda_emulator.device import EmulatedDevice

from inferlib.executors.cuda_choices import KernelChoices
from inferlib.transformer import record


class Machine(EmulatedDevice):
    """A device on which named work takes as long as the test says."""

    def __init__(self, folder, costs, name="machine"):
        super().__init__()
        self.cache_folder, self.name = folder, name
        self.costs, self.now, self.num_runs = costs, 0.0, 0

    def candidates(self):
        def run(name):
            self.now += self.costs[name]
            self.num_runs += 1

        return {name: lambda name=name: run(name) for name in self.costs}

    def choose(self, *keys):
        choices = KernelChoices(self, clock=lambda: self.now)
        found = [choices.choose(key, self.candidates()) for key in keys]
        choices.save()
        return found


def test_the_quickest_is_chosen_once_and_remembered(tmp_path):
    first = Machine(tmp_path, {"few": 3.0, "many": 2.0})
    assert first.choose("a", "a") == ["many", "many"]
    assert first.num_runs == 2 * (1 + 3 * 10)
    second = Machine(tmp_path, {"few": 1.0, "many": 2.0})
    assert second.choose("a", "b") == ["many", "few"]  # "a" as it was measured before
    assert json.loads(next(tmp_path.iterdir()).read_text()) == {"a": "many", "b": "few"}


def test_another_gpu_measures_for_itself(tmp_path):
    assert Machine(tmp_path, {"few": 3.0, "many": 2.0}).choose("a") == ["many"]
    assert Machine(tmp_path, {"few": 1.0, "many": 2.0}, name="other").choose("a") == ["few"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_choice_that_is_no_candidate_any_more_is_measured_again(tmp_path):
    assert Machine(tmp_path, {"old": 1.0}).choose("a") == ["old"]
    assert Machine(tmp_path, {"few": 1.0, "many": 2.0}).choose("a") == ["few"]


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_file_is_said_and_replaced(tmp_path, content, caplog):
    Machine(tmp_path, {"few": 1.0}).choose("a")
    file = next(tmp_path.iterdir())
    file.write_text(content)
    with caplog.at_level(logging.WARNING, "inferlib.cuda"):
        assert Machine(tmp_path, {"few": 3.0, "many": 2.0}).choose("a") == ["many"]
    assert "damaged" in caplog.text
    assert json.loads(file.read_text()) == {"a": "many"}


def test_what_two_processes_measure_is_kept_of_both(tmp_path):
    machines = [Machine(tmp_path, {"few": 1.0, "many": 2.0}) for _ in range(2)]
    choices = [KernelChoices(machine, clock=lambda: 0.0) for machine in machines]
    for key, each, machine in zip("ab", choices, machines, strict=True):
        each.choose(key, machine.candidates())
    for each in choices:
        each.save()
    assert json.loads(next(tmp_path.iterdir()).read_text()).keys() == {"a", "b"}


def test_without_a_folder_nothing_is_measured():
    machine = Machine(None, {"few": 3.0, "many": 2.0})
    assert machine.choose("a") == ["few"]
    assert machine.num_runs == 0


def test_a_choice_changes_no_bit(monkeypatch):
    """As if the kernel for many rows had been the quickest for every shape and number of rows."""
    options = {"max_tokens": 3, "logprobs": 2, "temperature": 0, "ignore_eos": True}
    program, answers = record(wide_spec()), []
    for wanted in ("few", "many"):
        monkeypatch.setattr(KernelChoices, "choose", lambda *_, wanted=wanted: wanted)
        device = CountedDevice(EmulatedDevice())
        with make_model(program, device=device, speculation="off") as model:
            completions = model.generate(prompts()[:2], **options)
            answers.append([(each.token_ids, each.logprobs) for each in completions])
        few = sum(count for name, count in device.launched.items() if "linear_few" in name)
        assert (few > 0) == (wanted == "few")
    assert answers[0] == answers[1]
