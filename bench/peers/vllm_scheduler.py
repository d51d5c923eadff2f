"""vLLM's scheduler on a trace, without a model; driven by ``bench/scheduler.py``.

    python -m bench.peers.vllm_scheduler NUM_BLOCKS < ROWS

For vLLM 0.32.0: its internal interfaces change with every release. A folder with a ``config.json``
is all that it needs; the forward pass is pretended. Hashing of prompts is part of its submit.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.traces.rows import from_lines, token_ids

BLOCK_SIZE, MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS, MAX_MODEL_LEN = 16, 256, 8192, 131_072
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 131_072,
    "max_position_embeddings": MAX_MODEL_LEN,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def scheduler_of(num_blocks: int) -> Any:
    """An idle scheduler; of its blocks the first is never used."""
    import torch
    from vllm.config import (
        CacheConfig,
        DeviceConfig,
        ModelConfig,
        ParallelConfig,
        SchedulerConfig,
        VllmConfig,
    )
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODEL), encoding="utf8")
        model = ModelConfig(
            model=folder,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            seed=0,
            max_model_len=MAX_MODEL_LEN,
        )
        cache = CacheConfig(
            block_size=BLOCK_SIZE,
            gpu_memory_utilization=0.9,
            cache_dtype="auto",
            enable_prefix_caching=True,
            prefix_caching_hash_algo="sha256",
        )
        limits = SchedulerConfig(
            max_num_seqs=MAX_NUM_SEQS,
            max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
            max_model_len=MAX_MODEL_LEN,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            policy="fcfs",
        )
        config = VllmConfig(
            model_config=model,
            scheduler_config=limits,
            cache_config=cache,
            device_config=DeviceConfig("cpu"),
            parallel_config=ParallelConfig(),
        )
    cache.num_gpu_blocks = num_blocks  # the scheduler asserts it
    spec = FullAttentionSpec(
        block_size=BLOCK_SIZE, num_kv_heads=3, head_size=64, dtype=torch.bfloat16
    )
    blocks = KVCacheConfig(
        num_blocks=num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer0"], spec)],
    )
    return Scheduler(
        vllm_config=config,
        kv_cache_config=blocks,
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_SIZE,
        log_stats=False,
    )


def main(num_blocks: str) -> None:
    """Replay, and print one line of JSON."""
    os.environ.update(ENVIRONMENT)
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request

    hash_function = get_hash_fn_by_name("sha256")
    init_none_hash(hash_function)  # before anything is hashed
    hasher = get_request_block_hasher(BLOCK_SIZE, hash_function)
    scheduler = scheduler_of(int(num_blocks))
    prompt_tokens = submit = schedule = update = 0
    for number, row in enumerate(from_lines(sys.stdin)):
        prompt = token_ids(row)
        params = SamplingParams(max_tokens=max(1, row.output_length), ignore_eos=True)
        prompt_tokens += len(prompt)
        begin = time.thread_time_ns()
        request = Request(
            request_id=str(number),
            prompt_token_ids=prompt,
            sampling_params=params,
            pooling_params=None,
            block_hasher=hasher,
            arrival_time=0.0,
        )
        scheduler.add_request(request)
        submit += time.thread_time_ns() - begin
    gc.collect()
    gc.freeze()
    steps = request_steps = hits = preemptions = worst = 0
    while scheduler.get_num_unfinished_requests():
        begin = time.thread_time_ns()
        planned = scheduler.schedule()
        scheduled = time.thread_time_ns() - begin
        ids = list(planned.num_scheduled_tokens)
        requests = [scheduler.requests[i] for i in ids]
        # A chunk of a prompt draws nothing.
        tokens = [[7] if r.num_computed_tokens >= r.num_tokens else [] for r in requests]
        output = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={i: row for row, i in enumerate(ids)},
            sampled_token_ids=tokens,
        )
        begin = time.thread_time_ns()
        scheduler.update_from_output(planned, output)
        updated = time.thread_time_ns() - begin
        steps += 1
        request_steps += len(ids)
        hits += sum(new.num_computed_tokens for new in planned.scheduled_new_reqs)
        preemptions += len(planned.preempted_req_ids or ())
        schedule, update = schedule + scheduled, update + updated
        worst = max(worst, scheduled + updated)
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
