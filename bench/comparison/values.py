"""How the value of a target is found in the results; each function makes one ``Measure``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .statistics import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .results import Against, Results

LEAST_POSITIONS = 20_000
MEGABYTE = 1e6
COMPARABLE = 10
"""An engine whose mean divergence is more times ours than this computes another model."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run says about a target.

    Attributes:
        value: In the target's unit; ``None``: the run has nothing.
        detail: Against what; or why there is nothing.
    """

    value: float | None
    detail: str


Measure: TypeAlias = "Callable[[Results], Measured]"
NOTHING = Measured(None, "not measured in this run")


def against_best(model: str, workload: str, *, name: str = "") -> Measure:
    """Ours against the fastest other engine whose key begins with ``name``.

    If its results are far from the model's, the detail also says what the ratio is to the fastest
    engine whose results are not.
    """

    def measure(results: Results) -> Measured:
        best = results.against_best(model, workload, name=name)
        close = results.against_best(
            model, workload, name=name, is_eligible=lambda key: is_close(results, model, key)
        )
        measured = _times(results, model, best)
        if best is None or close is None or close.key == best.key:
            return measured
        further = (
            f"; of those near the model {close.ratio:.2f} (to {_speed(results, model, close)})"
        )
        return Measured(measured.value, measured.detail + further)

    return measure


def is_close(results: Results, model: str, key: str) -> bool:
    """Whether an engine's distributions are about as near to float32 as ours."""
    ours = results.quality(model, results.role(model, "ours"))
    theirs = results.quality(model, key)
    if ours is None or theirs is None:
        return True
    return theirs["kld_mean"] <= COMPARABLE * ours["kld_mean"]


def against_same_file(model: str, workload: str) -> Measure:
    """Ours against llama.cpp on the same file."""
    return lambda results: _times(
        results, model, results.against_same_file(model, workload, name="llama.cpp")
    )


def _times(results: Results, model: str, against: Against | None) -> Measured:
    if against is None:
        return Measured(None, "not both were measured in this run")
    return Measured(against.ratio, _speed(results, model, against))


def _speed(results: Results, model: str, against: Against) -> str:
    quality = results.quality(model, against.key)
    divergence = "" if quality is None else f", KL {quality['kld_mean']:.1e}"
    return f"{against.key}: {against.tokens_per_second:,.0f} tokens/s{divergence}"


def bound(model: str) -> Measure:
    """Decode as a percentage of what read bandwidth allows."""

    def measure(results: Results) -> Measured:
        key = results.role(model, "ours")
        share = results.bound_share(model, key)
        if share is None or key is None:
            return NOTHING
        bandwidth = results.engines(model)[key]["read_bandwidth_gb_s"]["median"]
        return Measured(100 * share, f"read bandwidth {bandwidth:.1f} GB/s")

    return measure


def drafting(model: str, workload: str) -> Measure:
    """Our decode with drafting over the same without."""

    def measure(results: Results) -> Measured:
        key = results.role(model, "drafting")
        if key is None:
            return Measured(None, results.why_missing(model, "drafting"))
        without = results.figure(model, results.role(model, "ours"), workload)
        drafted = results.figure(model, key, workload)
        if without is None or drafted is None:
            return Measured(None, results.reason(model, key, workload) or NOTHING.detail)
        detail = f"{drafted['median']:,.0f} against {without['median']:,.0f} tokens/s"
        return Measured(ratio(drafted, without), detail)

    return measure


def shared_weights(model: str) -> Measure:
    """Copies of the weights in memory when several processes share a packed cache."""

    def measure(results: Results) -> Measured:
        shared = results.model(model).get("shared_memory", {})
        entry = shared.get("packed_cache")
        if entry is None:
            reason = results.model(model).get("shared_memory_reasons", {}).get("packed_cache")
            return Measured(None, reason or NOTHING.detail)
        total = (entry["all_anonymous_bytes"] + entry["all_mapped_bytes"]) / MEGABYTE
        return Measured(
            weight_copies(entry), f"{entry['processes']} processes: {total:,.0f} MB in all"
        )

    return measure


def weight_copies(entry: Mapping[str, float]) -> float:
    """Physical weight memory of several processes, in copies of the weights.

    What is mapped from files is theirs together; what of the weights is not mapped, each process
    has in anonymous memory, beside what it has there for itself (KV, heap).
    """
    private = max(entry["weight_bytes"] - entry["one_mapped_bytes"], 0.0)
    own = entry["processes"] * (entry["one_anonymous_bytes"] - private)
    return (entry["all_mapped_bytes"] + entry["all_anonymous_bytes"] - own) / entry["weight_bytes"]


def load_seconds(model: str) -> Measure:
    """A fresh process's time to its first token."""

    def measure(results: Results) -> Measured:
        fresh = results.fresh(model, results.role(model, "ours"))
        if fresh is None:
            return NOTHING
        return Measured(fresh["seconds"]["median"], f"best {fresh['seconds']['best']:.3f} s")

    return measure


def peak_megabytes(model: str) -> Measure:
    """A fresh process's peak memory, loading included."""

    def measure(results: Results) -> Measured:
        fresh = results.fresh(model, results.role(model, "ours"))
        if fresh is None:
            return NOTHING
        at_load = fresh["load_peak_bytes"]["median"] / MEGABYTE
        filled = fresh["filled_peak_bytes"]["median"] / MEGABYTE
        return Measured(max(at_load, filled), f"{at_load:,.0f} MB at load")

    return measure


def fast_divergence(model: str) -> Measure:
    """Mean divergence of ours over llama.cpp's, on the same file."""

    def measure(results: Results) -> Measured:
        ours = results.quality(model, results.role(model, "ours"))
        theirs = results.quality(model, f"llama.cpp {results.model(model).get('format')}")
        if ours is None or theirs is None:
            return Measured(None, "not both were measured in this run")
        detail = f"{_divergence(ours)} against {_divergence(theirs)}{_positions(ours)}"
        return Measured(ours["kld_mean"] / theirs["kld_mean"], detail)

    return measure


def balanced_divergence(model: str) -> Measure:
    """Mean divergence of balanced precision."""

    def measure(results: Results) -> Measured:
        ours = results.quality(model, results.role(model, "balanced"))
        if ours is None:
            return Measured(None, results.why_missing(model, "balanced"))
        return Measured(ours["kld_mean"], f"{_divergence(ours)}{_positions(ours)}")

    return measure


def _divergence(quality: Mapping[str, float]) -> str:
    return f"{quality['kld_mean']:.1e} / {quality['kld_99.9']:.1e}"


def _positions(quality: Mapping[str, float]) -> str:
    count = int(quality["positions"])
    short = "" if count >= LEAST_POSITIONS else ", fewer than wanted"
    return f" (mean / 99.9 %), {count:,} positions{short}"
