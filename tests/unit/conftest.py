"""What tests of threads count, and what tests of drafts compare with."""

import threading

import pytest

from inferlib.testing import tiny_model


@pytest.fixture
def new_threads():
    """Threads that were not there when the test began: other packages keep theirs (tqdm)."""
    before = frozenset(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


@pytest.fixture(scope="module")
def undrafted():
    """A tiny model for which nobody drafts."""
    with tiny_model(speculation="off") as model:
        yield model
