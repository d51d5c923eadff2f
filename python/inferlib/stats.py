"""What a model is doing and has done: counters, for people, monitoring and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ._core import SchedulerStats


class ModelStats(TypedDict):
    """A model at one moment, and sums since it was loaded: a plain ``dict``.

    Attributes:
        running_sequences: Sequences in the batch.
        waiting_sequences: Sequences that wait for their first step, or to be resumed.
        waiting_requests: Requests that wait for their first step.
        waiting_tokens: Prompt tokens of those.
        total_blocks: KV blocks, of all groups of layers.
        used_blocks: Blocks of running and of held sequences.
        free_blocks: Blocks that nobody uses, cached or not.
        cached_blocks: Blocks that the prefix cache can serve, used or free.
        requests: Requests accepted.
        finished_requests: Requests that ended, for whatever reason.
        steps: Steps planned.
        scheduled_tokens: Tokens computed, also again.
        prompt_tokens: Prompt tokens of all requests that ran.
        cached_tokens: Those of them that the prefix cache served.
        output_tokens: Tokens generated.
        drafted_tokens: Tokens drafted and verified.
        accepted_tokens: Those of them that the model generates, too.
        draft_model_drafted_tokens: Of the drafted tokens, those of the draft model.
        draft_model_accepted_tokens: Those of these that the model generates, too.
        preemptions: How often a sequence was taken out of the batch and computed again.
        held_sequences: ``Sequence`` objects that are not closed.
        held_blocks: Blocks that they hold; what forks share counts for each.
        evictions: How often one of them lost its blocks to somebody who ran.
        device: Where the model runs.
        details: What the device says of itself: kernels, threads, bytes in use. On Linux also, of
            this moment, ``weight_resident_bytes``, ``weight_huge_page_bytes`` (those of them in
            huge pages; 0 means that the system refused) and ``weight_proportional_bytes`` (this
            process's share of them, where several map one ``packed_cache``). With ``quantize=``
            also ``quantization``: ``type``, ``matrices``, ``relative_error`` (root mean square,
            over that of the weights), ``worst_matrix`` and ``worst_relative_error``.
            With a draft model its name, and ``draft_model_problem``: why it drafts no more,
            ``None`` if it does.
    """

    running_sequences: int
    waiting_sequences: int
    waiting_requests: int
    waiting_tokens: int
    total_blocks: int
    used_blocks: int
    free_blocks: int
    cached_blocks: int
    requests: int
    finished_requests: int
    steps: int
    scheduled_tokens: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    draft_model_drafted_tokens: int
    draft_model_accepted_tokens: int
    preemptions: int
    held_sequences: int
    held_blocks: int
    evictions: int
    device: str
    details: dict[str, Any]


def model_stats(scheduler: SchedulerStats, executor: dict[str, Any]) -> ModelStats:
    """Join what scheduler and executor report."""
    columns = zip(*scheduler.groups, strict=True)
    total, used, free, cached = (sum(column) for column in columns)
    return ModelStats(
        running_sequences=scheduler.num_running_seqs,
        waiting_sequences=scheduler.num_waiting_seqs,
        waiting_requests=scheduler.num_waiting_requests,
        waiting_tokens=scheduler.num_waiting_tokens,
        total_blocks=total,
        used_blocks=used,
        free_blocks=free,
        cached_blocks=cached,
        requests=scheduler.num_requests,
        finished_requests=scheduler.num_finished,
        steps=scheduler.num_steps,
        scheduled_tokens=scheduler.num_scheduled_tokens,
        prompt_tokens=scheduler.num_prompt_tokens,
        cached_tokens=scheduler.num_cached_tokens,
        output_tokens=scheduler.num_output_tokens,
        drafted_tokens=scheduler.num_drafted_tokens,
        accepted_tokens=scheduler.num_accepted_tokens,
        draft_model_drafted_tokens=scheduler.num_model_drafted_tokens,
        draft_model_accepted_tokens=scheduler.num_model_accepted_tokens,
        preemptions=scheduler.num_preemptions,
        held_sequences=scheduler.num_held_seqs,
        held_blocks=scheduler.num_held_blocks,
        evictions=scheduler.num_evictions,
        device=executor.get("device", "cpu"),
        details={name: value for name, value in executor.items() if name != "device"},
    )
