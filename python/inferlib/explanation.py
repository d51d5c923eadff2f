"""What happened to a request, in words: why it waited, how it was computed and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .sampling_params import SamplingParams


class _Finished(Protocol):
    """What is described: a ``Completion``, which stands above this file."""

    @property
    def timings(self) -> Any: ...  # noqa: ANN401
    @property
    def usage(self) -> Any: ...  # noqa: ANN401
    @property
    def run(self) -> Mapping[str, Any]: ...
    @property
    def params(self) -> SamplingParams: ...
    @property
    def outputs(self) -> Sequence[_Output]: ...


class _Output(Protocol):
    """One of its sequences."""

    @property
    def index(self) -> int: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def stop_reason(self) -> str | int | None: ...


_REASONS = {
    "blocks": "too few KV blocks were free",
    "max_num_seqs": "max_num_seqs sequences were running",
    "token_budget": "those that ran used up max_num_batched_tokens",
    "preemption": "a running sequence had just been preempted",
    "foreground": "requests that are not in the background came first",
}
_REMEDIES = {
    "blocks": "raise kv_cache, or close sequences",
    "max_num_seqs": "raise max_num_seqs",
    "token_budget": "raise max_num_batched_tokens",
    "preemption": "raise kv_cache",
    "foreground": 'ask for it without priority="background"',
}


def explain_completion(completion: _Finished) -> str:
    """Describe a finished request, a sentence per line."""
    return "\n".join(_sentences(completion))


def explain_waiting(waiting: Mapping[str, Any]) -> str:
    """Say why a request does not run; ``waiting`` is the scheduler's account of it."""
    state = "preempted" if waiting["is_preempted"] else "waiting"
    ahead = _count(waiting["num_ahead"], "sequence")
    text = f"{state}: {ahead} ahead, {_count(waiting['num_running_seqs'], 'sequence')} running"
    text += _standing(waiting)
    reason = waiting["reason"]
    if reason is None:
        return f"{text}; the next step has not been planned yet (does anybody wait for a result?)"
    text += f"; {_REASONS[reason]}"
    if reason == "blocks":
        needed, free = waiting["num_needed_blocks"], waiting["num_free_blocks"]
        text += f" (it needs up to {needed}, {free} are free)"
    return f"{text}; to change that: {_REMEDIES[reason]}"


def _standing(waiting: Mapping[str, Any]) -> str:
    """What its place in the queue comes from, where that is more than when it came."""
    match waiting["policy"]:
        case "fcfs" if waiting["priority"]:
            return f"; priority {waiting['priority']}"
        case "priority":
            aged = waiting["effective_priority"]
            return f"; priority {waiting['priority']}, by now {aged}"
        case "fair":
            ahead = waiting["service"] - waiting["least_service"]
            if ahead:
                return f"; its tenant got {ahead:,} weighted tokens more than the one that is next"
            return "; its tenant is next"
        case "deadline" if not waiting["has_deadline"]:
            return "; it has no deadline"
        case _:
            return ""


def _sentences(completion: _Finished) -> Iterator[str]:
    timings, usage, run = completion.timings, completion.usage, completion.run
    yield _queued(timings.queued, run)
    yield _prompt(usage, run, timings.prefill)
    if timings.num_preemptions:
        yield (
            f"preempted: {_count(timings.num_preemptions, 'time')}, since a request of better rank "
            "needed its KV blocks; what was lost was computed again (raise kv_cache to avoid it)"
        )
    if run.get("num_steps"):
        mean = run["sum_batch_seqs"] / run["num_steps"]
        line = f"batches: {_count(run['num_steps'], 'step')} with {mean:.1f} sequences on average"
        yield f"{line}, {run['max_batch_seqs']:,} at most"
    if usage.drafted_tokens:
        share = usage.accepted_tokens / usage.drafted_tokens
        yield (
            f"drafting: {usage.accepted_tokens:,} of {usage.drafted_tokens:,} drafted tokens were "
            f"right ({share:.0%}), and each saved a step" + _by_draft_model(usage)
        )
    if usage.output_tokens:
        yield f"sampling: {_sampling(completion.params)}"
    for output in completion.outputs:
        name = f"output {output.index}" if len(completion.outputs) > 1 else "output"
        yield f"{name}: {_count(len(output.token_ids), 'token')}, {_ending(output)}"


def _queued(seconds: float, run: Mapping[str, Any]) -> str:
    line = f"queued: {_duration(seconds)}"
    for reason, steps in run.get("waited_for", {}).items():
        if steps:
            line += f"; for {_count(steps, 'step')} {_REASONS[reason]}"
    if run.get("num_deferrals"):
        steps = _count(run["num_deferrals"], "step")
        line += f"; {steps} to share a prefix that another request was computing"
    return line


def _prompt(usage: Any, run: Mapping[str, Any], prefill: float | None) -> str:  # noqa: ANN401
    line = f"prompt: {_count(usage.prompt_tokens, 'token')}"
    if usage.cached_tokens:
        line += f", {usage.cached_tokens:,} of them found in memory"
    if run.get("num_prefill_steps"):
        tokens = _count(run["num_prefill_tokens"], "token")
        line += f"; {tokens} computed in {_count(run['num_prefill_steps'], 'chunk')}"
    return line if prefill is None else f"{line}, {_duration(prefill)} until the first token"


def _by_draft_model(usage: Any) -> str:  # noqa: ANN401
    drafted, accepted = usage.draft_model_drafted_tokens, usage.draft_model_accepted_tokens
    if not drafted:
        return ""
    return f"; {accepted:,} of {drafted:,} were the draft model's ({accepted / drafted:.0%})"


def _sampling(params: SamplingParams) -> str:
    if params.temperature == 0:
        parts = ["greedy"]
    else:
        parts = [f"temperature {params.temperature:g}", f"seed {params.seed}"]
        parts += [f"top_k {params.top_k}"] if params.top_k else []
        parts += [f"top_p {params.top_p:g}"] if params.top_p not in (None, 1.0) else []
        parts += [f"min_p {params.min_p:g}"] if params.min_p else []
        parts += [f"top_n_sigma {params.top_n_sigma:g}"] if params.top_n_sigma else []
        parts += [f"typical_p {params.typical_p:g}"] if (params.typical_p or 1.0) < 1.0 else []
        parts += [f"XTC {params.xtc_probability:g}"] if params.xtc_probability else []
        parts += [f"mirostat {params.mirostat_tau:g} bits"] if params.mirostat else []
    for name, neutral in (
        ("repetition_penalty", 1.0),
        ("presence_penalty", 0.0),
        ("frequency_penalty", 0.0),
    ):
        value = getattr(params, name)
        parts += [f"{name} {value:g}"] if value not in (None, neutral) else []
    return ", ".join(parts)


def _ending(output: _Output) -> str:
    match output.finish_reason:
        case "tool_calls":
            return "ended after calling tools"
        case "stop" if isinstance(output.stop_reason, str):
            return f"ended by the stop string {output.stop_reason!r}"
        case "stop" if output.stop_reason is not None:
            return f"ended by the stop token {output.stop_reason}"
        case "stop":
            return "ended by the model's end-of-sequence token"
        case "length":
            return "ended by max_tokens or the context's end"
        case "abort":
            return "cancelled"
        case "deadline":
            return "ended at its deadline"
        case "abstain":
            return "ended since its confidence fell below abstain_below"
        case _:
            return "ended because its logits were not numbers"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
