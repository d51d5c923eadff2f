"""Quality from another run: only if it is of the same things."""

from __future__ import annotations

import pytest
from bench.comparison.known_quality import SAME, Known, QualityError
from tests.unit.bench import stored

MACHINE = {"cpu": "Model T", "tier": "avx2", "inferlib": "0.1.0", "arithmetic_version": 1}
VERSIONS = {"inferlib Q4_1": "1.0", "llama.cpp Q4_1": "1.0"}


@pytest.fixture
def other_run():
    return {"measured_on": dict(MACHINE), "models": {"smollm2": stored.smollm2()}}


def test_quality_of_the_same_engines_is_taken(other_run):
    known = Known.of(other_run, MACHINE)
    qualities, reasons, error = known.quality("smollm2", "model.gguf", VERSIONS)
    assert {key: each["kld_mean"] for key, each in qualities.items()} == {
        "inferlib Q4_1": 0.004,
        "llama.cpp Q4_1": 0.005,
    }
    assert (reasons, error) == ({}, 1e-4)


@pytest.mark.parametrize("field", SAME)
def test_another_machine_or_build_is_refused(other_run, field):
    with pytest.raises(QualityError, match=field):
        Known.of(other_run, {**MACHINE, field: "other"})


@pytest.mark.parametrize(
    ("model", "file", "versions", "message"),
    [
        ("gemma", "model.gguf", VERSIONS, "no quality of model.gguf"),
        ("smollm2", "other.gguf", VERSIONS, "no quality of other.gguf"),
        ("smollm2", "model.gguf", {"llama.cpp Q4_1": "1.1"}, "llama.cpp Q4_1 1.1"),
        ("smollm2", "model.gguf", {"vLLM bf16": "1.0"}, "vLLM bf16 1.0 is wanted"),
    ],
)
def test_what_was_not_measured_is_not_made_up(other_run, model, file, versions, message):
    with pytest.raises(QualityError, match=message):
        Known.of(other_run, MACHINE).quality(model, file, versions)


def test_an_engine_without_quality_needs_a_reason(other_run):
    engine = other_run["models"]["smollm2"]["engines"]["llama.cpp Q4_1"]
    del engine["quality"]
    known = Known.of(other_run, MACHINE)
    with pytest.raises(QualityError, match=r"no quality of llama\.cpp Q4_1"):
        known.quality("smollm2", "model.gguf", VERSIONS)
    other_run["models"]["smollm2"]["quality_reasons"]["llama.cpp Q4_1"] = "it broke"
    qualities, reasons, _ = Known.of(other_run, MACHINE).quality("smollm2", "model.gguf", VERSIONS)
    assert list(qualities) == ["inferlib Q4_1"]
    assert reasons == {"llama.cpp Q4_1": "it broke"}
