"""What tests of threads count."""

import threading

import pytest


@pytest.fixture
def new_threads():
    """Threads that were not there when the test began: other packages keep theirs (tqdm)."""
    before = frozenset(threading.enumerate())
    return lambda: set(threading.enumerate()) - before
