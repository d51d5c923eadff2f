"""Quality that another run measured: it depends on files, versions and tier, not on the hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SAME = ("cpu", "tier", "inferlib", "arithmetic_version")
"""What both runs' ``measured_on`` must agree in: other processors have other kernels."""


class QualityError(ValueError):
    """The stored quality is not that of what is compared now."""


@dataclass(frozen=True, slots=True)
class Known:
    """The models of a stored run.

    Attributes:
        models: As ``measure_model`` returned them, by name.
    """

    models: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, stored: Mapping[str, Any], described: Mapping[str, object]) -> Known:
        """Of a run's results, if it was on a machine like the one ``described``.

        Raises:
            QualityError: It was on another.
        """
        measured_on = stored["measured_on"]
        for field in SAME:
            if measured_on.get(field) != described[field]:
                raise QualityError(
                    f"quality was measured with {field} {measured_on.get(field)!r}, "
                    f"not {described[field]!r}"
                )
        return cls(stored["models"])

    def quality(
        self, model: str, file: str, versions: Mapping[str, str]
    ) -> tuple[dict[str, dict[str, object]], dict[str, str], float]:
        """What :func:`bench.comparison.quality.measure` gave, and the reference's error.

        Args:
            model: Name of the model.
            file: Its file.
            versions: Of the engines that are compared now, by key.

        Raises:
            QualityError: It is of another file or version, or an engine has none.
        """
        stored = self.models.get(model)
        if stored is None or stored["file"] != file:
            raise QualityError(f"there is no quality of {file}")
        qualities: dict[str, dict[str, object]] = {}
        reasons: dict[str, str] = dict(stored["quality_reasons"])
        for key, version in versions.items():
            engine = stored["engines"].get(key)
            if engine is None or engine["version"] != version:
                found = "nothing" if engine is None else engine["version"]
                raise QualityError(f"quality of {key} {version} is wanted, there is {found}")
            if "quality" in engine:
                qualities[key] = engine["quality"]
            elif key not in reasons and engine["role"] != "drafting":
                raise QualityError(f"there is no quality of {key}")
        return qualities, reasons, stored["reference_error"]
