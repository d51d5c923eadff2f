"""The targets of CPU speed, what was measured against each, and the reason where one is not met.

Everything here is a function of the stored results, so reasons can be written after a run:
``reasons.toml`` holds one for each target that is not met, ``python -m bench.compare --show`` puts
them into the results again.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from . import values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .results import Results
    from .values import Measure

REASONS = Path(__file__).parent / "reasons.toml"


class Outcome(TypedDict):
    """One target in the results."""

    id: str
    target: str
    measured: float | None
    threshold: float
    at_most: bool
    unit: str
    met: bool
    detail: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table.

    Attributes:
        id: Name in ``reasons.toml``.
        text: What is wanted.
        threshold: Value that meets it.
        unit: Times, percent, seconds, megabytes or nothing.
        at_most: Whether less is better.
        measure: Finds the value.
    """

    id: str
    text: str
    threshold: float
    unit: str
    measure: Measure
    at_most: bool = False

    def outcome(self, results: Results, reasons: Mapping[str, str]) -> Outcome:
        """Measure and compare; the reason is empty where the target is met."""
        measured = self.measure(results)
        met = measured.value is not None and (
            measured.value <= self.threshold if self.at_most else measured.value >= self.threshold
        )
        reason = "" if met else reasons.get(self.id, "")
        if not met and not reason:
            reason = measured.detail if measured.value is None else "no reason was written yet"
        return Outcome(
            id=self.id,
            target=self.text,
            measured=measured.value,
            threshold=self.threshold,
            at_most=self.at_most,
            unit=self.unit,
            met=met,
            detail=measured.detail,
            reason=reason,
        )


def outcomes(results: Results, reasons: Mapping[str, str]) -> list[Outcome]:
    """All targets."""
    return [target.outcome(results, reasons) for target in TARGETS]


def load_reasons(path: Path = REASONS) -> dict[str, str]:
    """Written reasons by target.

    Raises:
        ValueError: There is a reason for a target that does not exist.
    """
    reasons = tomllib.loads(path.read_text(encoding="utf8"))
    unknown = sorted(set(reasons) - {target.id for target in TARGETS})
    if unknown:
        raise ValueError(f"{path.name} has reasons for unknown targets: {', '.join(unknown)}")
    return reasons


SECONDS, MEGABYTES, PERCENT, TIMES = "s", "MB", "%", "\N{MULTIPLICATION SIGN}"
SMOLLM2, GEMMA = "smollm2", "gemma"


def _at_least(name: str, threshold: float, text: str, measure: Measure) -> Target:
    return Target(id=name, text=text, threshold=threshold, unit=TIMES, measure=measure)


def _at_most(name: str, threshold: float, unit: str, text: str, measure: Measure) -> Target:
    return Target(id=name, text=text, threshold=threshold, unit=unit, at_most=True, measure=measure)


TARGETS = (
    Target(
        id="decode_16_bound",
        text="decode, context 16: share of read bandwidth / bytes per token",
        threshold=90,
        unit=PERCENT,
        measure=values.bound(SMOLLM2),
    ),
    _at_least(
        "decode_16_same_file",
        2.5,
        "decode, context 16, against llama.cpp on the same file",
        values.against_same_file(SMOLLM2, "decode_16"),
    ),
    _at_least(
        "decode_16_best_format",
        1.6,
        "decode, context 16, against llama.cpp's best format",
        values.against_best(SMOLLM2, "decode_16", name="llama.cpp"),
    ),
    _at_least(
        "decode_1024",
        2.2,
        "decode, context 1,024, against llama.cpp's best format",
        values.against_best(SMOLLM2, "decode_1024", name="llama.cpp"),
    ),
    _at_least(
        "prefill_512",
        1.2,
        "prefill of 512 tokens against the fastest engine",
        values.against_best(SMOLLM2, "prefill_512"),
    ),
    _at_least(
        "batch_8",
        4.0,
        "8 sequences decoded together against the fastest engine",
        values.against_best(SMOLLM2, "batch_8"),
    ),
    _at_least(
        "batch_32",
        3.3,
        "32 sequences decoded together against the fastest engine",
        values.against_best(SMOLLM2, "batch_32"),
    ),
    _at_least(
        "mixed_64",
        2.2,
        "64 requests of 96 + 64 tokens at once against the fastest engine",
        values.against_best(SMOLLM2, "mixed_64"),
    ),
    _at_least(
        "gemma_decode_16",
        1.8,
        "Gemma 3 270M: decode, context 16, against llama.cpp on the same file",
        values.against_same_file(GEMMA, "decode_16"),
    ),
    _at_least(
        "gemma_prefill_512",
        3.0,
        "Gemma 3 270M: prefill of 512 tokens against llama.cpp on the same file",
        values.against_same_file(GEMMA, "prefill_512"),
    ),
    _at_least(
        "gemma_batch_32",
        3.5,
        "Gemma 3 270M: 32 sequences together against llama.cpp on the same file",
        values.against_same_file(GEMMA, "batch_32"),
    ),
    _at_most(
        "shared_memory",
        1.2,
        TIMES,
        "four processes with packed_cache: weight memory against one copy",
        values.shared_weights(SMOLLM2),
    ),
    _at_least(
        "drafting_code_edit",
        1.8,
        "repetitive text (code edit): drafting against none",
        values.drafting(SMOLLM2, "repetitive_code_edit"),
    ),
    _at_least(
        "drafting_extraction",
        1.8,
        "repetitive text (extraction): drafting against none",
        values.drafting(SMOLLM2, "repetitive_extraction"),
    ),
    _at_most(
        "load", 0.25, SECONDS, "fresh process: load to first token", values.load_seconds(SMOLLM2)
    ),
    _at_most(
        "peak_memory",
        200,
        MEGABYTES,
        "peak memory with 2,048 tokens of KV, at load too",
        values.peak_megabytes(SMOLLM2),
    ),
    _at_most(
        "fast_quality",
        1.1,
        TIMES,
        "mean KL divergence of fast against llama.cpp's",
        values.fast_divergence(SMOLLM2),
    ),
    _at_most(
        "gemma_fast_quality",
        1.1,
        TIMES,
        "Gemma 3 270M: mean KL divergence of fast against llama.cpp's",
        values.fast_divergence(GEMMA),
    ),
    _at_most(
        "balanced_quality",
        2e-4,
        "",
        "mean KL divergence of balanced",
        values.balanced_divergence(SMOLLM2),
    ),
    _at_most(
        "gemma_balanced_quality",
        2e-4,
        "",
        "Gemma 3 270M: mean KL divergence of balanced",
        values.balanced_divergence(GEMMA),
    ),
)
