"""What the scheduler is told of drafting and of its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from .config import PromptLookup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import EngineConfig
    from .scheduling import SchedulingPolicy


class SpeculationOptions(TypedDict, total=False):
    """Of drafting; what is left out has the scheduler's default."""

    num_speculative_tokens: int
    prompt_lookup_max: int
    prompt_lookup_min: int
    num_model_tokens: int
    rows_per_pass: int


class PolicyOptions(TypedDict):
    """A ``SchedulingPolicy``, in the scheduler's words."""

    policy: str
    steps_per_class: int
    input_weight: int
    output_weight: int
    patience_seconds: float
    background_tokens: int


def speculation_options(
    config: EngineConfig, executor: Mapping[str, Any], *, has_draft_model: bool
) -> SpeculationOptions:
    """Say who drafts, and how much.

    Args:
        config: How the model runs.
        executor: What the executor says of itself: how many rows one pass computes as fast as one.
        has_draft_model: Whether one stands beside the model.
    """
    lookup = config.prompt_lookup
    options = SpeculationOptions()
    if lookup is None and not has_draft_model:
        return options
    how = lookup or PromptLookup()
    if lookup is not None:
        options["num_speculative_tokens"] = lookup.num_speculative_tokens
        options["prompt_lookup_max"] = lookup.prompt_lookup_max
        options["prompt_lookup_min"] = lookup.prompt_lookup_min
    if has_draft_model:
        options["num_model_tokens"] = how.num_speculative_tokens
    rows_per_pass = how.rows_per_pass or executor.get("rows_per_pass")
    if rows_per_pass is not None:
        options["rows_per_pass"] = rows_per_pass
    return options


def policy_options(policy: SchedulingPolicy) -> PolicyOptions:
    """Say who comes first."""
    return PolicyOptions(
        policy=policy.name,
        steps_per_class=policy.steps_per_class,
        input_weight=policy.input_weight,
        output_weight=policy.output_weight,
        patience_seconds=policy.patience_seconds,
        background_tokens=policy.background_tokens,
    )
