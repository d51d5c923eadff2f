"""``Model`` over pretended parts: every way in and out, without arithmetic."""

from __future__ import annotations

import pytest
from tests.unit.fakes import fake_model


@pytest.fixture
def model():
    with fake_model() as model:
        yield model
