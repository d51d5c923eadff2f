"""What a run left behind, as it is stored, and the questions that tables and targets ask of it.

{"measured_on": {…}, "models": {"smollm2": {"file": …, "engines": {key: {…}}, "missing": {…}}}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .statistics import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .statistics import Figure


@dataclass(frozen=True, slots=True)
class Against:
    """One engine compared with another.

    Attributes:
        ratio: Ours over theirs, the median over rounds.
        key: The other engine.
        tokens_per_second: Its median.
    """

    ratio: float
    key: str
    tokens_per_second: float


class Results:
    """Reads the stored dictionary.

    Args:
        stored: As in ``bench/results/compare.json``.
    """

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.stored = stored

    @property
    def measured_on(self) -> Mapping[str, Any]:
        """Processor, cores, versions, rounds, read bandwidth."""
        return self.stored["measured_on"]

    def models(self) -> list[str]:
        """Names of the models that were measured."""
        return list(self.stored["models"])

    def model(self, model: str) -> Mapping[str, Any]:
        """All of one model; empty if it was not measured."""
        return self.stored["models"].get(model, {})

    def engines(self, model: str) -> Mapping[str, Mapping[str, Any]]:
        """By key, in the order of the tables."""
        return self.model(model).get("engines", {})

    def missing(self, model: str) -> Mapping[str, str]:
        """Engines that did not start, and why."""
        return self.model(model).get("missing", {})

    def role(self, model: str, role: str) -> str | None:
        """The key of the first engine of a role."""
        for key, engine in self.engines(model).items():
            if engine["role"] == role:
                return key
        return None

    def why_missing(self, model: str, role: str) -> str:
        """The reason why a role has no engine."""
        reasons = self.model(model).get("missing_roles", {})
        return reasons.get(role, "not measured in this run")

    def figure(self, model: str, key: str | None, workload: str) -> Figure | None:
        """Tokens per second of one cell."""
        if key is None:
            return None
        return self.engines(model).get(key, {}).get("tokens_per_second", {}).get(workload)

    def reason(self, model: str, key: str, workload: str) -> str | None:
        """Why a cell is empty."""
        return self.engines(model).get(key, {}).get("reasons", {}).get(workload)

    # Ours against others

    def against(self, model: str, workload: str) -> Iterator[Against]:
        """Ours against every other engine that has this figure."""
        ours = self.figure(model, self.role(model, "ours"), workload)
        for key, engine in self.engines(model).items():
            theirs = self.figure(model, key, workload)
            if engine["role"] != "peer" or ours is None or theirs is None:
                continue
            times = ratio(ours, theirs)
            if times is not None:
                yield Against(times, key, theirs["median"])

    def against_best(
        self,
        model: str,
        workload: str,
        *,
        name: str = "",
        is_eligible: Callable[[str], bool] = lambda _: True,
    ) -> Against | None:
        """Ours against the fastest eligible engine, of those whose key begins with ``name``."""
        found = [
            each
            for each in self.against(model, workload)
            if each.key.startswith(name) and is_eligible(each.key)
        ]
        return min(found, key=lambda each: each.ratio, default=None)

    def against_same_file(self, model: str, workload: str, *, name: str) -> Against | None:
        """Ours against one other engine on the same file."""
        file_format = self.model(model).get("format")
        for each in self.against(model, workload):
            if each.key == f"{name} {file_format}":
                return each
        return None

    # Shares of the machine's limits

    def bound_share(self, model: str, key: str | None, workload: str = "decode_16") -> float | None:
        """Decode as a share of read bandwidth over bytes per token, the median over rounds."""
        cell = self.figure(model, key, workload)
        engine = self.engines(model).get(key or "", {})
        if cell is None or "decode_bytes" not in engine or "read_bandwidth_gb_s" not in engine:
            return None
        return ratio(cell, engine["read_bandwidth_gb_s"], scale=engine["decode_bytes"] / 1e9)

    def gop_s(self, model: str, key: str | None, workload: str) -> float | None:
        """Prefill as giga-operations per second in the layers' matrix products."""
        cell = self.figure(model, key, workload)
        if cell is None or "layer_multiply_adds" not in self.model(model):
            return None
        return cell["median"] * 2 * self.model(model)["layer_multiply_adds"] / 1e9

    def read_bandwidth(self, model: str) -> list[float]:
        """All values that were read in the run, GB/s."""
        return [
            value
            for engine in self.engines(model).values()
            for value in engine.get("read_bandwidth_gb_s", {}).get("rounds", [])
            if value is not None
        ]

    # Quality, loading, memory

    def quality(self, model: str, key: str | None) -> Mapping[str, Any] | None:
        """KL divergence from float32."""
        return self.engines(model).get(key or "", {}).get("quality")

    def fresh(self, model: str, key: str | None) -> Mapping[str, Any] | None:
        """Seconds to the first token and peak memory of a fresh process."""
        return self.engines(model).get(key or "", {}).get("fresh")
