"""What quality is measured on: fixed texts, cut into windows of token ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Encode = Callable[[str], list[int]]

HERE = Path(__file__).parent / "texts"
FOLDERS = (Path(__file__).parent.parent / "tests" / "golden" / "data" / "text", HERE)
WINDOW = 256
"""Tokens that are scored together, with nothing before them but what the vocabulary demands."""


def windows(
    encode: Encode, beginning: list[int], positions: int, folders: Iterable[Path] = FOLDERS
) -> list[tuple[str, list[int]]]:
    """Windows of the texts, a file at a time in turn, so that every kind of text takes part.

    Args:
        encode: Text to ids, without special tokens.
        beginning: Token ids that every sequence begins with: BOS, where the model wants it.
        positions: Scored positions wanted: one less than its tokens in each window.
        folders: Where the ``*.txt`` files are.

    Returns:
        Pairs of the file's name and the ids; fewer than asked for if the texts are too short.
    """
    length = WINDOW - len(beginning)
    files = []
    for folder in folders:
        for path in sorted(folder.glob("*.txt")):
            ids = encode(path.read_text(encoding="utf8"))
            starts = range(0, len(ids) - length + 1, length)
            files.append([(path.name, beginning + ids[start : start + length]) for start in starts])
    picked: list[tuple[str, list[int]]] = []
    while any(files) and len(picked) * (WINDOW - 1) < positions:
        for file in files:
            if file and len(picked) * (WINDOW - 1) < positions:
                picked.append(file.pop(0))
    return picked


def repetitive() -> dict[str, str]:
    """Prompts whose answers repeat them, by name; without the last newline, as one goes on."""
    paths = sorted((HERE / "repetitive").glob("*.txt"))
    return {path.stem: path.read_text(encoding="utf8").rstrip("\n") for path in paths}
