"""Targets: what was measured, whether it is enough, and the reason if it is not."""

from __future__ import annotations

import pytest
from bench.comparison import targets, values
from tests.unit.bench import stored


def outcomes(results, reasons=None):
    return {each["id"]: each for each in targets.outcomes(results, reasons or {})}


@pytest.fixture
def found():
    return outcomes(stored.results(smollm2=stored.smollm2()))


def test_the_same_file_is_the_same_file(found):
    outcome = found["decode_16_same_file"]
    assert (outcome["measured"], outcome["met"], outcome["reason"]) == (4.0, True, "")
    assert "llama.cpp Q4_1: 100 tokens/s" in outcome["detail"]


def test_the_best_format_is_the_faster_one(found):
    assert found["decode_16_best_format"]["measured"] == 2.0
    assert "llama.cpp Q4_0" in found["decode_16_best_format"]["detail"]


def test_the_fastest_engine_counts_and_the_fastest_good_one_is_told(found):
    outcome = found["prefill_512"]
    assert outcome["measured"] == pytest.approx(0.8)
    assert not outcome["met"]
    assert "Rounder Q4_1: 5,000 tokens/s, KL 5.0e-01" in outcome["detail"]
    assert "of those near the model 8.00 (to llama.cpp Q4_1" in outcome["detail"]


def test_the_bound_is_taken_within_rounds(found):
    # 40 of 50 GB/s, 20 of 25, 40 of 40
    assert found["decode_16_bound"]["measured"] == pytest.approx(80)
    assert found["decode_16_bound"]["threshold"] == 90


def test_less_is_better_where_it_is(found):
    assert found["load"]["met"]
    assert found["peak_memory"]["measured"] == pytest.approx(190)
    assert found["peak_memory"]["met"]
    assert found["fast_quality"]["measured"] == pytest.approx(0.8)
    assert found["fast_quality"]["met"]


def test_a_target_without_a_value_is_not_met_and_says_why():
    model = stored.smollm2()
    model["missing_roles"]["balanced"] = "there is no such precision"
    model["shared_memory_reasons"]["packed_cache"] = "there is no cache"
    found = outcomes(stored.results(smollm2=model))
    assert found["balanced_quality"]["measured"] is None
    assert not found["balanced_quality"]["met"]
    assert found["balanced_quality"]["reason"] == "there is no such precision"
    assert found["shared_memory"]["reason"] == "there is no cache"
    assert all(each["reason"] for each in found.values() if not each["met"])


def test_written_reasons_stand_beside_what_is_not_met():
    reasons = {"prefill_512": "the other one rounds", "load": "a reason of another day"}
    found = outcomes(stored.results(smollm2=stored.smollm2()), reasons)
    assert found["prefill_512"]["reason"] == "the other one rounds"
    assert found["load"]["reason"] == ""


def test_reasons_are_for_targets_that_exist(tmp_path):
    assert set(targets.load_reasons()) <= {target.id for target in targets.TARGETS}
    path = tmp_path / "reasons.toml"
    path.write_text('typo = "because"\n')
    with pytest.raises(ValueError, match="typo"):
        targets.load_reasons(path)


def test_every_target_has_a_name_of_its_own():
    names = [target.id for target in targets.TARGETS]
    assert len(names) == len(set(names))


def test_a_run_of_nothing_meets_nothing():
    found = outcomes(stored.results())
    assert not any(each["met"] for each in found.values())


def test_drafting_is_compared_with_not_drafting():
    model = stored.smollm2()
    model["engines"]["inferlib Q4_1"]["tokens_per_second"]["repetitive_extraction"] = stored.figure(
        [100.0, 50.0]
    )
    model["engines"]["inferlib Q4_1 drafting"] = stored.engine(
        "inferlib Q4_1 drafting", "drafting", {"repetitive_extraction": [300.0, 100.0]}
    )
    found = outcomes(stored.results(smollm2=model))
    assert found["drafting_extraction"]["measured"] == 2.5
    assert found["drafting_code_edit"]["measured"] is None


@pytest.mark.parametrize(
    ("copies", "one", "together"),
    [
        (4.0, (130, 0), (520, 0)),  # everybody has a copy
        (1.0, (30, 100), (120, 100)),  # all map one file
        (1.04, (30, 104), (120, 104)),  # which is a bit larger than the weights
        (2.8, (90, 40), (360, 40)),  # a part is mapped, the rest copied
        (4.0, (30, 100), (120, 400)),  # a file for everybody
    ],
)
def test_weight_memory_is_mapped_files_and_private_copies(copies, one, together):
    entry = {
        "processes": 4,
        "weight_bytes": 100,
        "one_anonymous_bytes": one[0],
        "one_mapped_bytes": one[1],
        "all_anonymous_bytes": together[0],
        "all_mapped_bytes": together[1],
    }
    assert values.weight_copies(entry) == pytest.approx(copies)
