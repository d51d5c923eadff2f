"""The code on the pages of ``docs/`` runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.real_models import real_model

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if "```python" in path.read_text("utf8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    real_model("smollm2")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text("utf8"), re.DOTALL):
        exec(compile(code, str(page), "exec", dont_inherit=True), names)  # noqa: S102
    names["model"].close()


def test_links_of_the_pages_lead_somewhere():
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"
