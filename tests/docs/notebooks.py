"""Runs the notebooks of ``docs/``; their outputs are committed and must come out again.

python -m tests.docs.notebooks        # run them and store what came out
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SECONDS_PER_CELL = 120


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook as a fresh kernel leaves it; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS_PER_CELL, record_timing=False, resources=_folder(path)
    )
    return client.execute()


def _folder(path: Path) -> dict[str, Any]:
    return {"metadata": {"path": str(path.parent)}}


def outputs(notebook: nbformat.NotebookNode) -> list[list[dict[str, Any]]]:
    """What each cell of code shows: printed text whole, and results without their number."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        results = [dict(o.data) for o in cell.outputs if o.output_type != "stream"]
        shown.append([{"printed": printed}, *results])
    return shown


if __name__ == "__main__":
    for each in NOTEBOOKS:
        nbformat.write(execute(each), each)
