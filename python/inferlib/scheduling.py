"""In which order requests run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .errors import RequestError
from .validation import INT32_MAX, choice, integer, number, shown

PolicyName = Literal["fcfs", "priority", "fair", "deadline"]
Priority: TypeAlias = int | Literal["background"]
"""A class, smaller first; or behind everybody else."""

_MAX_WEIGHT = 2**16
_MAX_STEPS = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    """Who comes first, and by which numbers. No result depends on it, only when it comes.

    Attributes:
        name: ``"fcfs"``: in order of arrival; ``priority`` counts strictly, however long others
            wait. ``"priority"``: by ``priority``, smaller first, better by one class for every
            ``steps_per_class`` steps waited. ``"fair"``: the ``tenant`` that was served least is
            next, its own requests in the order of ``"priority"``. ``"deadline"``: the earliest
            ``deadline`` first.
        steps_per_class: Steps of waiting that are worth one class of ``priority``.
        input_weight: What a tenant is charged for a prompt token that is not found in memory.
        output_weight: What it is charged for a generated token. Two tenants that both have
            something waiting get about the same; the difference stays below twice
            ``output_weight`` times the tokens that the KV cache holds, if ``output_weight`` is at
            least twice ``input_weight``.
        patience_seconds: A request without a deadline counts as if it had this one.
        background_tokens: Most tokens of a step for requests of ``priority="background"``, under
            every policy. Who comes while such a step runs waits for its end, so more of them are
            faster background work and a later first token of the others.
    """

    name: PolicyName = "fcfs"
    steps_per_class: int = 256
    input_weight: int = 1
    output_weight: int = 2
    patience_seconds: float = 60.0
    background_tokens: int = 16

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            RequestError: A value is of the wrong kind or out of range; ``field`` names it.
        """
        choice("name", self.name, get_args(PolicyName))
        limits = {
            "steps_per_class": _MAX_STEPS,
            "input_weight": _MAX_WEIGHT,
            "output_weight": _MAX_WEIGHT,
            "background_tokens": INT32_MAX,
        }
        for field, limit in limits.items():
            object.__setattr__(self, field, integer(field, getattr(self, field), 1, limit))
        patience = number("patience_seconds", self.patience_seconds, 0.0, 1e9)
        object.__setattr__(self, "patience_seconds", patience)


FCFS = SchedulingPolicy()


def read_priority(value: object) -> tuple[int, bool]:
    """Return a priority's class, and whether it is the background.

    Raises:
        RequestError: ``value`` is neither a class nor ``"background"``.
    """
    if isinstance(value, str):
        if value != "background":
            raise RequestError(
                f'priority must be a whole number or "background", not {shown(value)}',
                field="priority",
            )
        return 0, True
    return integer("priority", value, -INT32_MAX, INT32_MAX), False


PolicyChoice: TypeAlias = PolicyName | SchedulingPolicy


def read_policy(value: object) -> SchedulingPolicy:
    """Return the policy of a name.

    Raises:
        RequestError: ``value`` is neither a name nor a policy.
    """
    if isinstance(value, SchedulingPolicy):
        return value
    names = get_args(PolicyName)
    if not isinstance(value, str) or value not in names:
        wanted = ", ".join(f'"{name}"' for name in names)
        raise RequestError(
            f"scheduling_policy must be one of {wanted}, or a SchedulingPolicy, not {shown(value)}",
            field="scheduling_policy",
        )
    return SchedulingPolicy(name=value)  # type: ignore[arg-type]  # one of them
