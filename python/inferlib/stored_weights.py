"""Weights of a loaded model, read again from its files when somebody asks for one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .loading import load
from .origin import FileStamps
from .tensor_sources import MatrixSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ._core import Weights
    from .loading import LoadedModel
    from .tensor_sources import VectorSource


class StoredWeights:
    """Reads single weights by canonical name, as the files have them: dequantized.

    Nothing is held but names, until the first is asked for; then the mapped files. Files that
    cannot be mapped as they are (GPTQ's, AWQ's) are opened each time.

    Args:
        loaded: What the model was made of; it is not kept.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._path: Path = loaded.path
        self._stamps = FileStamps(loaded.files)
        self._lock = threading.Lock()
        self._opened: tuple[Weights, Mapping[str, MatrixSource | VectorSource]] | None = None

    def read(self, name: str) -> NDArray[np.float32]:
        """Return one weight of the program, in memory of its own.

        Args:
            name: Of a weight that there is.

        Raises:
            ModelError: The files were changed or removed since the model was loaded.
        """
        self._stamps.check()
        with self._lock:
            weights, sources = self._opened or self._open()
        source = sources[name]
        # A vector is held; whoever writes to an array must not write to that.
        return source.values(weights) if isinstance(source, MatrixSource) else source.values.copy()

    def _open(self) -> tuple[Weights, Mapping[str, MatrixSource | VectorSource]]:
        loaded = load(self._path)
        sources: dict[str, MatrixSource | VectorSource] = {}
        sources |= {matrix.name: matrix for matrix in loaded.matrices}
        sources |= {vector.name: vector for vector in loaded.vectors}
        opened = loaded.weights, sources
        if loaded.weights.is_mapped:
            self._opened = opened
        return opened
