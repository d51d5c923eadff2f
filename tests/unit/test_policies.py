"""Scheduling policies from Python, on a whole model; their rules and bounds: rust/core/tests."""

import itertools

import pytest

from inferlib import RequestError, SchedulingPolicy
from inferlib.config import EngineConfig
from inferlib.testing import tiny_model

ONE_AT_A_TIME = {"max_num_seqs": 1, "threads": 1, "enable_prefix_caching": False}


class TestPolicyOfAModel:
    def test_a_name_becomes_a_policy_and_numbers_can_be_given(self):
        assert EngineConfig().scheduling_policy == SchedulingPolicy(name="fcfs")
        assert EngineConfig(scheduling_policy="fair").scheduling_policy.output_weight == 2
        own = SchedulingPolicy(name="priority", steps_per_class=3)
        assert EngineConfig(scheduling_policy=own).scheduling_policy is own

    @pytest.mark.parametrize("value", ["lottery", None, 3, ["fair"]])
    def test_what_is_no_policy_is_refused(self, value):
        with pytest.raises(RequestError, match="fcfs") as raised:
            tiny_model(scheduling_policy=value)
        assert raised.value.field == "scheduling_policy"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "lottery"),
            ("steps_per_class", 0),
            ("input_weight", 0),
            ("output_weight", 2**16 + 1),
            ("patience_seconds", float("inf")),
            ("patience_seconds", -1),
            ("background_tokens", 0),
        ],
    )
    def test_numbers_that_cannot_work_are_refused(self, field, value):
        with pytest.raises(RequestError) as raised:
            SchedulingPolicy(**{field: value})
        assert raised.value.field == field

    def test_results_do_not_depend_on_the_policy(self):
        prompts = [[number, 7, 9] for number in range(6)]
        answers = []
        for policy in ("fcfs", "priority", "fair", "deadline"):
            with tiny_model(scheduling_policy=policy, max_num_seqs=2) as model:
                handles = [
                    model.submit(
                        prompt,
                        max_tokens=5,
                        seed=3,
                        priority=-index,
                        tenant="ab"[index % 2],
                        deadline=1000 - index,
                    )
                    for index, prompt in enumerate(prompts)
                ]
                answers.append([handle.result().token_ids for handle in handles])
        assert answers == answers[:1] * 4


class TestOrder:
    @pytest.mark.parametrize(
        ("policy", "options", "expected"),
        [
            ("fcfs", [{}, {"tenant": "b"}, {"deadline": 10}], [0, 1, 2]),
            ("fcfs", [{}, {"priority": 1}, {"priority": -1}], [2, 0, 1]),
            ("fcfs", [{"priority": "background"}, {}, {"priority": 9}], [1, 2, 0]),
            ("fair", [{"priority": "background"}, {}, {"tenant": "b"}], [1, 2, 0]),
            ("deadline", [{"priority": "background", "deadline": 9}, {}], [1, 0]),
            ("priority", [{}, {"priority": 1}, {"priority": -1}], [2, 0, 1]),
            ("deadline", [{}, {"deadline": 90}, {"deadline": 50}], [2, 0, 1]),
            ("fair", [{"tenant": "a"}, {"tenant": "a"}, {"tenant": "b"}], [0, 2, 1]),
        ],
    )
    def test_who_comes_first(self, policy, options, expected):
        with tiny_model(scheduling_policy=policy, **ONE_AT_A_TIME) as model:
            handles = [
                model.submit([5, 6, 7], max_tokens=2, ignore_eos=True, **each) for each in options
            ]
            ends = [[] for _ in handles]
            while not all(handle.done() for handle in handles):
                model._engine.run_step()
                for handle, seen in zip(handles, ends, strict=True):
                    seen.append(handle.done())
            first = sorted(range(len(handles)), key=lambda index: ends[index].index(True))
        assert first == expected

    def test_a_waiting_request_says_where_it_stands(self):
        with tiny_model(scheduling_policy="fair", **ONE_AT_A_TIME) as model:
            running = model.submit([1] * 40, max_tokens=50, ignore_eos=True, tenant="a")
            own = model.submit([1] * 40, max_tokens=1, tenant="a")
            other = model.submit([2] * 40, max_tokens=1, tenant="b")
            model._engine.run_step()
            assert "its tenant is next" in other.explain()
            assert "42 weighted tokens more" in own.explain()  # 40, and one drawn
            assert not running.done()
        with tiny_model(
            scheduling_policy=SchedulingPolicy(name="priority", steps_per_class=2), **ONE_AT_A_TIME
        ) as model:
            running = model.submit([1] * 40, max_tokens=50, ignore_eos=True)
            waiting = model.submit([1], max_tokens=1, priority=5)
            for _ in range(4):
                model._engine.run_step()
            assert "priority 5, by now 3" in waiting.explain()
            assert not running.done()


class TestBackground:
    def test_it_gives_its_place_up_and_loses_nothing(self):
        prompts = [[number, 7, 9] * 5 for number in range(4)]
        params = {"max_tokens": 12, "seed": 4, "ignore_eos": True}
        with tiny_model(max_num_seqs=2) as model:
            expected = [each.token_ids for each in model.generate(prompts, **params)]
        with tiny_model(max_num_seqs=2) as model:
            behind = [model.submit(each, priority="background", **params) for each in prompts[:2]]
            for _ in range(5):
                model._engine.run_step()
            first = [model.submit(each, **params) for each in prompts[2:]]
            model._engine.run_step()
            assert "not in the background came first" in behind[0].explain()
            answers = [handle.result() for handle in first]
            assert not any(handle.done() for handle in behind)
            answers = [handle.result() for handle in behind] + answers
        assert [each.token_ids for each in answers] == expected
        assert [each.timings.num_preemptions for each in answers] == [1, 1, 0, 0]

    def test_a_step_has_few_tokens_of_it(self):
        policy = SchedulingPolicy(background_tokens=4)
        with tiny_model(scheduling_policy=policy) as model:
            prompts = [[number] * 9 for number in range(3)]
            handles = [
                model.submit(each, max_tokens=3, ignore_eos=True, priority="background")
                for each in prompts
            ]
            scheduled = [0]
            while not all(handle.done() for handle in handles):
                model._engine.run_step()
                scheduled.append(model._engine._scheduler.stats().num_scheduled_tokens)
        steps = [after - before for before, after in itertools.pairwise(scheduled)]
        assert max(steps) == 4
        assert sum(steps) == 3 * (9 + 2)


class TestDeadline:
    @pytest.mark.parametrize("policy", ["fcfs", "deadline"])
    def test_on_expiry_it_ends_with_what_there_is(self, policy):
        with tiny_model(scheduling_policy=policy) as model:
            late = model.generate("hello", max_tokens=900, ignore_eos=True, deadline=0.01)
            whole = model.generate("hello", max_tokens=900, ignore_eos=True, seed=late.params.seed)
        assert late.finish_reason == "deadline"
        assert late.token_ids == whole.token_ids[: len(late.token_ids)]
        assert len(late.token_ids) < 900
        assert whole.text.startswith(late.text.rstrip("\ufffd"))
        assert "deadline" in late.explain()

    def test_one_that_is_late_before_it_runs_has_nothing(self):
        with tiny_model() as model:
            late = model.generate("hello", max_tokens=9, deadline=0)
            assert (late.finish_reason, late.token_ids, late.text) == ("deadline", [], "")
            assert model.generate("hello", max_tokens=2, ignore_eos=True, deadline=1000).token_ids
            assert model.stats()["running_sequences"] == 0

    def test_a_stream_ends_too(self):
        with tiny_model() as model:
            *_, last = model.stream("hello", max_tokens=900, ignore_eos=True, deadline=0.01)
        assert last.finish_reason == "deadline"

    def test_a_sequence_keeps_what_was_generated_in_time(self):
        with tiny_model() as model, model.prefill("hello") as sequence:
            before = list(sequence.token_ids)
            late = sequence.generate(max_tokens=900, ignore_eos=True, deadline=0.01)
            assert late.finish_reason == "deadline"
            assert sequence.token_ids == before + late.token_ids
