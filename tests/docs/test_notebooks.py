"""The notebooks run, and show what they are committed with: same answer every time."""

from __future__ import annotations

import pytest
from tests.real_models import real_model

nbformat = pytest.importorskip("nbformat", reason="`make test` installs nbclient and ipykernel")
notebooks = pytest.importorskip("tests.docs.notebooks", reason="it needs nbclient and ipykernel")


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # of jupyter's
@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_is_committed_with(path):
    real_model("smollm2")
    committed = nbformat.read(path, as_version=4)
    assert notebooks.outputs(notebooks.execute(path)) == notebooks.outputs(committed)
    assert any(len(shown) > 1 for shown in notebooks.outputs(committed))
