"""How results read as text: tables, for a terminal and for Markdown; a summary for programs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .targets import PERCENT, SECONDS, TIMES
from .values import MEGABYTE, is_close
from .workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .results import Results
    from .targets import Outcome

TITLES = {"smollm2": "SmolLM2-135M-Instruct", "gemma": "Gemma 3 270M"}
NONE = "–"  # noqa: RUF001  # a dash stands for no value
FAR = "†"
OURS = "inferlib"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of strings; the first column names the rows.

    Attributes:
        header: Names of the columns.
        rows: As many cells each.
        ends_in_text: Whether the last column holds sentences, not numbers.
    """

    header: list[str]
    rows: list[list[str]]
    ends_in_text: bool = False

    def text(self) -> str:
        """Aligned for a terminal."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if self._is_text(column) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """For the README."""
        rule = ["---" if self._is_text(column) else "---:" for column in range(len(self.header))]
        return "\n".join(f"| {' | '.join(line)} |" for line in [self.header, rule, *self.rows])

    def _is_text(self, column: int) -> bool:
        return column == 0 or (self.ends_in_text and column == len(self.header) - 1)


def engine_grid(results: Results, model: str) -> Grid:
    """Workloads by engines: medians, and how many times ours is as fast."""
    keys = [key for key, engine in results.engines(model).items() if engine["role"] != "drafting"]
    times = {
        workload.name: {each.key: each.ratio for each in results.against(model, workload.name)}
        for workload in WORKLOADS[model]
    }

    def speed(key: str, workload: str) -> str:
        cell = results.figure(model, key, workload)
        if cell is None:
            return NONE
        against = times[workload].get(key)
        suffix = "" if against is None else f" ({against:.2f}{TIMES})"
        return f"{cell['median']:,.0f}{suffix}"

    rows = [
        [f"{workload.title}, tokens/s", *(speed(key, workload.name) for key in keys)]
        for workload in WORKLOADS[model]
    ]
    rows += [
        [title, *(value(results, model, key) for key in keys)] for title, value in _FURTHER_ROWS
    ]
    names = [key if is_close(results, model, key) else f"{key} {FAR}" for key in keys]
    return Grid([TITLES[model], *names], rows)


def target_grid(outcomes: Sequence[Outcome]) -> Grid:
    """Targets, what was measured, and why not where not."""
    rows = []
    for outcome in outcomes:
        sign = "at most" if outcome["at_most"] else "at least"
        goal = f"{sign} {shown(outcome['threshold'], outcome['unit'])}"
        value = outcome["measured"]
        measured = NONE if value is None else shown(value, outcome["unit"])
        parts = dict.fromkeys(part for part in (outcome["detail"], outcome["reason"]) if part)
        explained = "; ".join(parts)
        rows.append(
            [outcome["target"], goal, measured, "yes" if outcome["met"] else "no", explained]
        )
    header = ["target", "goal", "measured", "met", "against, or why not"]
    return Grid(header, rows, ends_in_text=True)


def shown(value: float, unit: str) -> str:
    """A number with as many digits as it deserves."""
    if not unit:
        return f"{value:.1e}"
    if unit == SECONDS:
        return f"{value:.2f} s"
    if unit == TIMES:
        return f"{value:.2f}{TIMES}"
    return f"{value:.0f} {unit}"


# The other rows of an engine


def _quality_row(name: str, form: str) -> Callable[[Results, str, str], str]:
    def value(results: Results, model: str, key: str) -> str:
        quality = results.quality(model, key)
        return NONE if quality is None else format(quality[name], form)

    return value


def _fresh_row(name: str, scale: float, form: str) -> Callable[[Results, str, str], str]:
    def value(results: Results, model: str, key: str) -> str:
        fresh = results.fresh(model, key)
        return NONE if fresh is None else format(fresh[name]["median"] / scale, form)

    return value


def _bound_row(results: Results, model: str, key: str) -> str:
    share = results.bound_share(model, key)
    return NONE if share is None else f"{100 * share:.0f} {PERCENT}"


def _operations_row(results: Results, model: str, key: str) -> str:
    rate = results.gop_s(model, key, "prefill_512")
    if rate is None:
        return NONE
    peak = results.model(model)["int8_peak_gop_s"]
    if peak is None:
        return f"{rate:,.0f}"
    return f"{rate:,.0f} ({100 * rate / peak['median']:.0f} {PERCENT})"


_FURTHER_ROWS: tuple[tuple[str, Callable[[Results, str, str], str]], ...] = (
    ("prefill 512, GOP/s in the layers (of int8 peak)", _operations_row),
    ("decode after 16, share of read bandwidth", _bound_row),
    ("KL divergence to float32, mean", _quality_row("kld_mean", ".1e")),
    ("KL divergence to float32, 99.9 %", _quality_row("kld_99.9", ".1e")),
    ("same most likely token", _quality_row("same_top1", ".1%")),
    ("load to first token, s", _fresh_row("seconds", 1, ".2f")),
    ("peak memory at load, MB", _fresh_row("load_peak_bytes", MEGABYTE, ",.0f")),
    ("peak memory, 2,048 tokens of KV, MB", _fresh_row("filled_peak_bytes", MEGABYTE, ",.0f")),
)


# Whole pages


def render(results: Results) -> str:
    """Everything, for a terminal."""
    parts = [_machine_line(results.measured_on)]
    for model in results.models():
        parts.append(engine_grid(results, model).text())
        parts.append("\n".join([*facts(results, model), *notes(results, model)]))
    parts.append(target_grid(results.stored["targets"]).text())
    return "\n\n".join(parts)


def facts(results: Results, model: str) -> list[str]:
    """What the figures of one model stand on: the machine meanwhile, the reference, versions."""
    found = results.model(model)
    bandwidth = results.read_bandwidth(model)
    lines = []
    if bandwidth:
        middle = statistics.median(bandwidth)
        span = f"{min(bandwidth):.0f} to {max(bandwidth):.0f}"
        peak = found["int8_peak_gop_s"]
        suffix = "" if peak is None else f"; int8 peak {peak['median']:,.0f} GOP/s"
        lines.append(f"All threads together read {middle:.0f} GB/s meanwhile ({span}){suffix}.")
    quality = results.quality(model, results.role(model, "ours"))
    if quality is not None:
        lines.append(
            f"KL divergence over {quality['positions']:,} positions from inferlib's float32 "
            "results, whose log-probabilities\nare within "
            f"{found['reference_error']:.0e} of transformers'."
        )
    versions = {engine["name"]: engine["version"] for engine in results.engines(model).values()}
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    return lines


def notes(results: Results, model: str) -> list[str]:
    """What a table does not say: who is missing, whose results are another model's, who spun."""
    lines = [f"{key}: missing: {reason}" for key, reason in results.missing(model).items()]
    foreign = results.model(model)["foreign_share"]
    if foreign is not None and foreign["median"] > BUSY_SHARE:
        lines.append(f"NOT A QUIET MACHINE: others used {foreign['median']:.0%} of its cores")
    for key, engine in results.engines(model).items():
        lines += [f"{key}: {name}: {reason}" for name, reason in engine["reasons"].items()]
        if engine["busy_share"] > BUSY_SHARE:
            lines.append(f"{key}: used {engine['busy_share']:.0%} of a core while others ran")
    lines += [
        f"{key}: quality: {why}" for key, why in results.model(model)["quality_reasons"].items()
    ]
    for name, entry in results.model(model)["shared_memory"].items():
        total, one = (
            (entry[f"{which}_anonymous_bytes"] + entry[f"{which}_mapped_bytes"]) / MEGABYTE
            for which in ("all", "one")
        )
        lines.append(f"{name}: {entry['processes']} processes hold {total:,.0f} MB, one {one:,.0f}")
    return lines


BUSY_SHARE = 0.05
"""Of a core: an idle engine that uses more disturbs the others."""


def _machine_line(measured_on: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in measured_on.items())


def summary(results: Results) -> dict[str, Any]:
    """The last line: every target, and every median."""
    return {
        "measured_on": dict(results.measured_on),
        "targets": results.stored["targets"],
        "tokens_per_second": {
            model: {
                key: {
                    name: round(cell["median"], 1)
                    for name, cell in engine["tokens_per_second"].items()
                }
                for key, engine in results.engines(model).items()
            }
            for model in results.models()
        },
    }
