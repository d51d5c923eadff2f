"""Errors: one root, each also the natural builtin."""

from __future__ import annotations

import copy
import pickle

import pytest

from inferlib import errors


@pytest.mark.parametrize("cls", errors.CLASSES.values(), ids=errors.CLASSES)
def test_every_class_has_the_root_a_code_of_its_own_and_survives_pickling(cls):
    error = cls("what happened", hint="what to do")
    assert isinstance(error, errors.InferlibError)
    assert str(error) == "what happened (what to do)"
    assert error.retryable in (True, False)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is cls
        assert str(twin) == str(error)
        assert twin.hint == error.hint


def test_codes_are_distinct():
    codes = [cls.code for cls in errors.CLASSES.values()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ModelNotFoundError, FileNotFoundError),
        (errors.ModelFormatError, ValueError),
        (errors.RequestError, ValueError),
        (errors.UnknownKeywordError, TypeError),
        (errors.OutOfMemoryError, MemoryError),
        (errors.ClosedError, RuntimeError),
        (errors.ForkedProcessError, RuntimeError),
        (errors.InternalError, Exception),
    ],
)
def test_the_natural_builtin_catches_it(cls, builtin):
    assert issubclass(cls, builtin)


def test_every_public_class_is_handed_to_the_compiled_module():
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.InferlibError)
    }
    assert public == set(errors.CLASSES)
