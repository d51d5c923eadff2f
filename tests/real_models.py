"""Paths of the real models; a test that needs one skips, saying why, where it is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench import models

if TYPE_CHECKING:
    from pathlib import Path


def real_model(name: str) -> Path:
    """A model that ``make test`` installs: ``"smollm2"``, ``"gemma"`` or ``"minilm"``."""
    try:
        return {"smollm2": models.smollm2, "gemma": models.gemma, "minilm": models.minilm}[name]()
    except FileNotFoundError as error:
        pytest.skip(str(error))
