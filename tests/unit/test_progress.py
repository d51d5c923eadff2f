"""When a progress bar shows, and what."""

from __future__ import annotations

import io
import sys

import pytest

from inferlib import progress
from inferlib.errors import RequestError
from inferlib.progress import _LineBar, progress_of


@pytest.fixture
def no_tqdm(monkeypatch):
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda _: None)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nobody_watches_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_of(1000, progress=None) is None
    monkeypatch.setattr(sys, "stderr", None)
    assert progress_of(1000, progress=None) is None


@pytest.mark.usefixtures("no_tqdm")
def test_long_lists_in_a_terminal_get_one(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress_of(1000, progress=None) is not None
    assert progress_of(2, progress=None) is None
    assert progress_of(1000, progress=False) is None


class Ipython:
    def __init__(self, shell):
        self.get_ipython = lambda: shell


def test_a_notebook_gets_one_and_who_talks_to_notebooks_does_not(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", object())  # as clients of kernels import it
    for shell in (None, object()):
        monkeypatch.setitem(sys.modules, "IPython", Ipython(shell))
        assert progress_of(1000, progress=None) is None
    monkeypatch.setitem(sys.modules, "IPython", Ipython(type("Shell", (), {"kernel": object()})()))
    assert progress_of(1000, progress=None) is not None


@pytest.mark.usefixtures("no_tqdm")
def test_the_caller_decides():
    assert progress_of(1, progress=True) is not None
    assert progress_of(0, progress=True) is None
    with pytest.raises(RequestError, match="progress"):
        progress_of(1, progress="yes")


def test_the_line_is_written_over_and_ended():
    file = io.StringIO()
    with _LineBar(8, file, delay_seconds=0) as bar:
        bar.show(1)
        bar.show(8)
    line, last = file.getvalue().split("\r")[1:]
    assert line.startswith("generate  1/8")
    assert last.startswith("generate  8/8")
    assert last.endswith("\n")


def test_a_quick_call_shows_nothing():
    file = io.StringIO()
    with _LineBar(8, file) as bar:
        bar.show(8)
    assert file.getvalue() == ""


def test_tqdm_is_used_where_it_is_installed(monkeypatch):
    shown = []

    class Bar:
        def __init__(self, **options):
            self.n = 0
            shown.append(options["total"])

        def update(self, count):
            self.n += count
            shown.append(self.n)

        def close(self):
            shown.append("closed")

    module = type(sys)("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", type(sys)("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda _: module)
    with progress_of(9, progress=True) as bar:
        bar.show(3)
        bar.show(9)
    assert shown == [9, 3, 9, "closed"]
