"""Every fault of the catalogue, alone and among 32 healthy requests: nobody else is harmed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults import catalogue, table

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BY_NAME = pytest.mark.parametrize("fault", table.FAULTS, ids=lambda fault: fault.name)


@pytest.fixture(scope="module")
def expected():
    return catalogue.baseline()


@BY_NAME
def test_a_fault_alone(fault, expected, tmp_path):
    catalogue.play_alone(fault, tmp_path, expected)


@BY_NAME
def test_a_fault_among_healthy_requests(fault, expected, tmp_path):
    catalogue.play_among_others(fault, tmp_path, expected)


def test_the_page_lists_every_fault():
    """``make faults-table`` writes it."""
    assert len(table.FAULTS) >= 40
    assert PAGE.read_text(encoding="utf8") == catalogue.table()
