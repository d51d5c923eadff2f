"""nano-vllm's scheduler on a trace, without a model; driven by ``bench/scheduler.py``.

    python -m bench.peers.nano_vllm_scheduler CHECKOUT NUM_BLOCKS < ROWS

The package's ``__init__`` would import torch, so only its scheduler, block manager and sequence are
imported, under empty parents. It computes prefill steps and decode steps apart, and of a prefill
step only the first sequence in chunks; so its number of steps differs, not what is cached.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

from bench.traces.rows import from_lines, token_ids

BLOCK_SIZE, MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS = 16, 256, 8192


def load(checkout: Path) -> tuple[Any, Any, Any]:
    """Its classes ``Scheduler``, ``Sequence`` and ``SamplingParams``."""
    for name in ("nanovllm", "nanovllm.engine"):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    transformers = types.ModuleType("transformers")
    transformers.AutoConfig = object  # for an annotation
    sys.modules["transformers"] = transformers
    from nanovllm.engine.scheduler import Scheduler
    from nanovllm.engine.sequence import Sequence
    from nanovllm.sampling_params import SamplingParams

    return Scheduler, Sequence, SamplingParams


def main(checkout: str, num_blocks: str) -> None:
    """Replay, and print one line of JSON."""
    scheduler_type, sequence_type, params_type = load(Path(checkout))
    sequence_type.block_size = BLOCK_SIZE
    config = types.SimpleNamespace(
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        eos=-1,
        kvcache_block_size=BLOCK_SIZE,
        num_kvcache_blocks=int(num_blocks) - 1,
    )
    scheduler = scheduler_type(config)
    prompt_tokens = 0
    submit = schedule = update = 0
    for row in from_lines(sys.stdin):
        prompt = token_ids(row)
        params = params_type(temperature=1.0, max_tokens=max(1, row.output_length), ignore_eos=True)
        prompt_tokens += len(prompt)
        begin = time.thread_time_ns()
        scheduler.add(sequence_type(prompt, params))
        submit += time.thread_time_ns() - begin
    gc.collect()
    gc.freeze()
    seen: set[int] = set()
    steps = request_steps = hits = preemptions = worst = 0
    while not scheduler.is_finished():
        begin = time.thread_time_ns()
        num_running = len(scheduler.running)
        sequences, is_prefill = scheduler.schedule()
        middle = time.thread_time_ns()
        if is_prefill:
            fresh = [sequence for sequence in sequences if sequence.seq_id not in seen]
            hits += sum(sequence.num_cached_tokens for sequence in fresh)
            seen.update(sequence.seq_id for sequence in fresh)
        else:
            preemptions += num_running - len(sequences)
        steps += 1
        request_steps += len(sequences)
        between = time.thread_time_ns()
        scheduler.postprocess(sequences, [7] * len(sequences), is_prefill)
        end = time.thread_time_ns()
        schedule += middle - begin
        update += end - between
        worst = max(worst, middle - begin + end - between)
    figures = {
        "prompt_tokens": prompt_tokens,
        "hit_tokens": hits,
        "steps": steps,
        "request_steps": request_steps,
        "preemptions": preemptions,
        "submit_seconds": submit / 1e9,
        "schedule_seconds": schedule / 1e9,
        "update_seconds": update / 1e9,
        "seconds": (submit + schedule + update) / 1e9,
        "ns_per_request_step": (schedule + update) / request_steps,
        "step_ns_max": worst,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
