"""The examples in docs/ run, in the order in which they stand, with the small real model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.real_models import real_model

DOCS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_the_examples_run(path, capsys):
    real_model("smollm2")
    scope: dict[str, object] = {}
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        exec(compile(block, path.name, "exec"), scope)  # noqa: S102 (our own files)
    assert capsys.readouterr().out
