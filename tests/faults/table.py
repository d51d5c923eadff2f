"""All faults, in the order of the page; ``python -m tests.faults.table`` writes it."""

from __future__ import annotations

from pathlib import Path

from tests.faults import (
    catalogue,
    file_faults,
    process_faults,
    request_faults,
    resource_faults,
)

FAULTS = catalogue.FAULTS
PARTS = (request_faults, resource_faults, file_faults, process_faults)
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"

if __name__ == "__main__":
    PAGE.write_text(catalogue.table(), encoding="utf8")
