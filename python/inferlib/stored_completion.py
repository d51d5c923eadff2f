"""Completions as JSON and back: equal to what they were, but for the model behind them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from .completion import Completion, CompletionOutput, Logprob
from .sampling_params import SamplingParams
from .tool_calls import MalformedToolCall, ToolCall
from .usage import Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .completion import TokenLogprobs
    from .origin import Origin


def store(completion: Completion) -> dict[str, Any]:
    """Return a completion as JSON-like values from which ``restore`` makes it again."""
    stored = completion.to_dict()
    for output, values in zip(completion.outputs, stored["outputs"], strict=True):
        values["tool_calls"] = [dataclasses.asdict(call) for call in output.tool_calls]
    return stored


def restore(stored: Mapping[str, Any], origin: Origin | None) -> Completion:
    """Make a completion again.

    Args:
        stored: As ``store`` wrote it, also after a way through JSON.
        origin: Of the model that made it.

    Raises:
        KeyError: Something is missing.
        TypeError: Something is of another kind.
        ValueError: A value is impossible.
    """
    params = dict(stored["params"])
    if params.get("logit_bias"):  # JSON's keys are strings
        params["logit_bias"] = {int(key): value for key, value in params["logit_bias"].items()}
    usage = {key: value for key, value in stored["usage"].items() if key != "total_tokens"}
    prompt_logprobs = stored["prompt_logprobs"]
    return Completion(
        prompt=stored["prompt"],
        prompt_token_ids=list(stored["prompt_token_ids"]),
        outputs=[_output(values) for values in stored["outputs"]],
        prompt_logprobs=None
        if prompt_logprobs is None
        else [None if row is None else _row(row) for row in prompt_logprobs],
        timings=Timings(**stored["timings"]),
        usage=Usage(**usage),
        params=SamplingParams(**params),
        run=dict(stored["run"]),
        thinking=stored.get("thinking"),
        origin=origin,
    )


def _output(stored: Mapping[str, Any]) -> CompletionOutput:
    calls = [ToolCall(**call) for call in stored["tool_calls"]]
    malformed = [MalformedToolCall(**call) for call in stored["malformed_tool_calls"]]
    changed = {
        "token_ids": list(stored["token_ids"]),
        "logprobs": _rows(stored["logprobs"]),
        "tool_calls": calls,
        "malformed_tool_calls": malformed,
    }
    return CompletionOutput(**dict(stored) | changed)


def _rows(stored: Sequence[Mapping[Any, Any]] | None) -> list[TokenLogprobs] | None:
    return None if stored is None else [_row(row) for row in stored]


def _row(stored: Mapping[Any, Any]) -> TokenLogprobs:
    return {int(token_id): Logprob(**entry) for token_id, entry in stored.items()}
