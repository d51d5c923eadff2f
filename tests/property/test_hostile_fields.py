"""Every argument of every call, given every kind of nonsense: a typed error that names it, soon.

What refusing costs in time ``bench/hostile_fields.py`` measures; here its memory is bounded.
"""

from __future__ import annotations

import tracemalloc
import warnings

import pytest
from tests import hostile

import inferlib
from inferlib.testing import tiny_model

MOST_BYTES = (1 << 20) + 16384  # an event loop takes some of it
LONGEST_MESSAGE = 1000
FIELDS = hostile.fields()
TEXTS_OF_PROMPTS = {"prompt", "contexts", "continuations", "prompts"}


@pytest.fixture(scope="module")
def model():
    with tiny_model(max_position_embeddings=64) as model:
        yield model
        stats = model.stats()
        assert stats["free_blocks"] == stats["total_blocks"]
        assert stats["running_sequences"] + stats["waiting_sequences"] == 0


def check(model, field: hostile.Field, name: str) -> None:
    value = hostile.VALUES[name]()
    raised = None
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hostile.make_call(model, field, value)
    except Exception as error:  # judged below
        raised = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if raised is None:
        return
    assert hostile.is_fair(field, raised), (str(field), name, repr(raised)[:300])
    assert len(str(raised)) <= LONGEST_MESSAGE, (str(field), name)
    if isinstance(raised, inferlib.RequestError):
        assert raised.field, (str(field), name)
    assert peak <= MOST_BYTES, (str(field), name, peak)


@pytest.mark.parametrize("call", sorted({field.call for field in FIELDS}))
def test_nonsense_is_refused_by_name(model, call, tmp_path, monkeypatch):
    """A sixteenth of the values for each argument, others for the next one."""
    monkeypatch.chdir(tmp_path)  # some values are paths
    for place, field in enumerate(FIELDS):
        if field.call == call:
            for name in list(hostile.VALUES)[place % hostile.FEW :: hostile.FEW]:
                if not hostile.is_work(field, name):
                    check(model, field, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("call", sorted({field.call for field in FIELDS}))
def test_all_nonsense_is_refused_by_name(model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for field in FIELDS:
        if field.call == call:
            for name in hostile.VALUES:
                if not hostile.is_work(field, name):
                    check(model, field, name)


def test_an_option_that_is_new_is_in_here():
    names = {field.name for field in FIELDS if field.call == "submit"}
    assert set(inferlib.SamplingParams.__dataclass_fields__) <= names
    assert {"prompt", "params", "cache_salt", "deadline"} <= names
