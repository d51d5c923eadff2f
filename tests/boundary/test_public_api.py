"""The public API is what the committed file says; who changes it, changes the file and says why."""

from __future__ import annotations

import difflib
import inspect

from tests.boundary.public_api import PATH, describe

import inferlib


def test_the_public_api_is_the_committed_one():
    committed = PATH.read_text(encoding="utf-8")
    found = describe()
    difference = "\n".join(
        difflib.unified_diff(
            committed.splitlines(), found.splitlines(), "committed", "found", "", "", 0, ""
        )
    )
    assert found == committed, (
        f"the public API is another than in {PATH.name}:\n{difference}\n"
        "If that is meant: `make api`, and a line in CHANGELOG.md. What is removed or renamed was "
        "deprecated for two minor versions before."
    )


def test_everything_public_is_documented():
    for name in inferlib.__all__:
        value = getattr(inferlib, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, name
