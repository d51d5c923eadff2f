"""Quality beside speed: every engine's distributions against float32 on the same token ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.divergence import Divergence, TopLogprobs

from .engines import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engines import EngineProcess
    from .rounds import Report

TOP = 1000
GOLDEN = Path(__file__).parent.parent.parent / "tests" / "golden" / "data" / "real"
GOLDEN_RANKS = 10
"""Of the 20 that the golden files hold: the last ones may change places with what follows."""


def measure(
    exact: EngineProcess,
    engines: Sequence[EngineProcess],
    windows: Sequence[tuple[str, list[int]]],
    *,
    folder: Path,
    report: Report,
) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """Score all windows with all engines.

    Args:
        exact: inferlib in float32: the reference.
        engines: What is compared with it.
        windows: Names of texts and token ids.
        folder: For arrays on their way.
        report: Told how far it is.

    Returns:
        By engine: the summary, with the mean per text; and by engine why there is none.
    """
    parts: dict[str, list[tuple[str, Divergence]]] = {}
    reasons: dict[str, str] = {}
    for index, (text, token_ids) in enumerate(windows):
        reference = _score(exact, token_ids, folder)
        for process in engines:
            key = process.engine.key
            if key in reasons:
                continue
            try:
                scores = _score(process, token_ids, folder)
            except EngineError as error:
                reasons[key] = str(error)
                continue
            parts.setdefault(key, []).append((text, Divergence.between(reference, scores)))
        if index % 10 == 9:  # now and then
            report(f"quality: {index + 1} of {len(windows)} windows")
    summaries: dict[str, dict[str, object]] = {}
    for key, found in parts.items():
        if key not in reasons:
            texts = sorted({text for text, _ in found})
            summaries[key] = {
                **Divergence.joined([part for _, part in found]).summary(),
                "kld_mean_by_text": {
                    name: float(np.mean(np.concatenate([p.kld for t, p in found if t == name])))
                    for name in texts
                },
            }
    return summaries, reasons


def reference_error(exact: EngineProcess, model: str, folder: Path) -> float:
    """How far the reference is from transformers' float32 results on the golden prompts.

    Returns:
        The largest difference of a log-probability among the best tokens of all positions.
    """
    with np.load(GOLDEN / f"{model}.npz") as golden:
        count = sum(name.startswith("ids_") for name in golden.files)
        worst = 0.0
        for index in range(count):
            scores = _score(exact, golden[f"ids_{index}"].tolist(), folder)
            ids = golden[f"top_ids_{index}"][: len(scores), :GOLDEN_RANKS]
            expected = golden[f"top_logprobs_{index}"][: len(scores), :GOLDEN_RANKS]
            worst = max(worst, largest_error(scores, ids, expected))
    return worst


def largest_error(scores: TopLogprobs, ids: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference at the given tokens, ``[positions, ranks]`` both."""
    worst = 0.0
    for row, logprobs, tokens, values in zip(
        scores.token_ids, scores.logprobs, ids, expected, strict=True
    ):
        order = np.argsort(row)
        places = order[np.searchsorted(row, tokens, sorter=order).clip(max=len(row) - 1)]
        if (row[places] != tokens).any():
            return float("inf")  # an expected token is not even among the best
        worst = max(worst, float(np.abs(logprobs[places] - values).max()))
    return worst


def _score(process: EngineProcess, token_ids: list[int], folder: Path) -> TopLogprobs:
    path = folder / "scores.npz"
    process.ask("score", token_ids=token_ids, top=TOP, path=str(path))
    return TopLogprobs.load(str(path))
