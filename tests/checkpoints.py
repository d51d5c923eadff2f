"""Tiny golden checkpoints, and the oracle for them; ``gguf_checkpoints.py`` writes them as GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.reference import ReferenceExecutor

from inferlib.loading import load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inferlib.loading import LoadedModel

TINY = Path(__file__).parent / "golden" / "data" / "tiny"
ENCODERS = {"bert-embedding", "bert-classifier", "xlm-roberta-embedding", "qwen3-embedding"}
"""Cases without logits, which no device runs yet."""
DECODERS = tuple(sorted({path.name for path in TINY.iterdir()} - ENCODERS))


def reference_executor(path: Path) -> ReferenceExecutor:
    """The oracle for any checkpoint that can be loaded."""
    loaded = load(path)
    return ReferenceExecutor(loaded.program, canonical_weights(loaded))


def canonical_weights(loaded: LoadedModel) -> dict[str, NDArray[np.float32]]:
    """Every weight of the program: matrices dequantized and stacked, vectors as loaded."""
    weights = {vector.name: vector.values for vector in loaded.vectors}
    for matrix in loaded.matrices:
        weights[matrix.name] = matrix.values(loaded.weights)
    return weights
