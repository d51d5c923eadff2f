"""The example of ``docs/testing.md`` is a test file, and passes."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.boundary.test_import import PACKAGE
from tests.docs.test_pages import DOCS


def test_the_example_of_the_page_passes(tmp_path):
    page = (DOCS / "testing.md").read_text(encoding="utf8")
    example = re.search(r"```python\n(# test_my_app\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "test_my_app.py").write_text(example[1], encoding="utf8")
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "5 passed" in process.stdout, process.stdout + process.stderr
