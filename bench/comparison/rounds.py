"""Measure in rounds: every workload by every engine in turn, so that all see the same weather.

Shared machines change from minute to minute. Within a round the engines follow one another
directly, each round begins with another one, and ratios are taken round by round.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import machine

from .engines import EngineError
from .workloads import SLOW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .engines import EngineProcess
    from .workloads import Workload

    Report = Callable[[str], None]

WARM_UP_SEED = 1_000_000
LEAST_METERED_SECONDS = 0.2
BANDWIDTH_AROUND = "decode_16"
"""Read bandwidth is measured before and after this workload of every engine."""


@dataclass(slots=True, kw_only=True)
class Samples:
    """What the rounds gave.

    Attributes:
        tokens_per_second: By engine and workload, one value per round; ``None``: it failed.
        reasons: By engine and workload, why there is no value.
        read_bandwidth: GB/s right before and after ``decode_16`` of an engine, by engine; one mean
            per round.
        int8_peak: GOP/s of all threads, at the beginning of each round.
        busy_share: By engine, the largest share of a core that it used while another was measured.
        foreign_share: Per measurement, the share of all cores that neither the engines nor this
            process used: other programs, and the host's other guests.
    """

    tokens_per_second: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    read_bandwidth: dict[str, list[float]] = field(default_factory=dict)
    int8_peak: list[float | None] = field(default_factory=list)
    busy_share: dict[str, float] = field(default_factory=dict)
    foreign_share: list[float] = field(default_factory=list)


class Rounds:
    """Runs workloads on loaded engines.

    Args:
        processes: Engines, all loaded.
        threads: Threads that each uses.
        seed: Of the first round's prompts; each round adds one.
        report: Told what is going on, in a line each.
    """

    def __init__(
        self, processes: Sequence[EngineProcess], *, threads: int, seed: int, report: Report
    ) -> None:
        self._processes = list(processes)
        self._threads = threads
        self._seed = seed
        self._report = report
        self.samples = Samples()

    def warm_up(self, workloads: Sequence[Workload]) -> None:
        """Run what is quick once without looking at the clock: engines compile, pages fault."""
        for workload in workloads:
            if workload.name in SLOW:
                continue
            for process in self._processes:
                if process.engine.runs(workload):
                    with contextlib.suppress(EngineError):  # the rounds will say so
                        process.ask(workload.ask, **workload.arguments(WARM_UP_SEED))

    def run(self, workloads: Sequence[Workload], rounds: int) -> None:
        """Measure every workload ``rounds`` times."""
        for index in range(rounds):
            self.samples.int8_peak.append(machine.int8_peak(self._threads))
            for workload in workloads:
                shift = index % len(self._processes)
                for process in self._processes[shift:] + self._processes[:shift]:
                    self._measure(process, workload, index)

    def _measure(self, process: EngineProcess, workload: Workload, index: int) -> None:
        engine = process.engine
        if not engine.runs(workload):
            return
        values = self.samples.tokens_per_second.setdefault(engine.key, {})
        reasons = self.samples.reasons.setdefault(engine.key, {})
        values.setdefault(workload.name, []).extend([None] * (index - len(values[workload.name])))
        if workload.name in reasons:
            values[workload.name].append(None)
            return
        bandwidth = self._probe_bandwidth(workload)
        meter = _Meter(process, self._processes)
        try:
            answer = process.ask(workload.ask, **workload.arguments(self._seed + index))
        except EngineError as error:
            reasons[workload.name] = str(error)
            values[workload.name].append(None)
            self._report(f"{engine.key}: {workload.name}: {error}")
            return
        meter.read(self.samples)
        value = workload.tokens_per_second(answer)
        values[workload.name].append(value)
        self._report(f"round {index + 1}  {workload.title:<40} {engine.key:<24} {value:8,.0f}")
        if not process.settle():
            self._report(f"{engine.key} does not stop working after {workload.name}")
        bandwidth += self._probe_bandwidth(workload)
        if bandwidth:
            means = self.samples.read_bandwidth.setdefault(engine.key, [])
            means.append(sum(bandwidth) / len(bandwidth))

    def _probe_bandwidth(self, workload: Workload) -> list[float]:
        if workload.name != BANDWIDTH_AROUND:
            return []
        return [machine.read_bandwidth(self._threads)]


class _Meter:
    """Who used the processor while one engine was measured."""

    def __init__(self, measured: EngineProcess, processes: Sequence[EngineProcess]) -> None:
        self._measured = measured
        self._processes = processes
        self._before = [process.cpu_seconds() for process in processes]
        self._own = time.process_time()
        self._busy = machine.busy_seconds()
        self._start = time.perf_counter()

    def read(self, samples: Samples) -> None:
        """Add what was seen; too short a time says nothing, since clocks tick at 10 ms."""
        seconds = time.perf_counter() - self._start
        if seconds < LEAST_METERED_SECONDS:
            return
        engines = 0.0
        for process, before in zip(self._processes, self._before, strict=True):
            used = process.cpu_seconds() - before
            engines += used
            if process is not self._measured:
                known = samples.busy_share.get(process.engine.key, 0.0)
                samples.busy_share[process.engine.key] = max(known, used / seconds)
        foreign = machine.busy_seconds() - self._busy - engines - time.process_time() + self._own
        samples.foreign_share.append(max(foreign, 0.0) / seconds / machine.cores())
