"""What does a GPU make of the CUDA kernels and of whole models?

    python -m bench.cuda [--models Llama-3.2-1B,…] [--weights bf16,int4] [--json FILE] [--dry-run]

Kernels, in the steps of real models: time, and the share of the bandwidth that the sum of two
arrays has on this device, or of the matmul rate of torch if it is installed (else rates without a
share). Then whole models through the engine: prefill and decode, beside the roofline: every weight
and the keys and values read once at that bandwidth. Weights are random and made on the device, so
nothing is needed but a checkout, a build and a GPU. A run takes some minutes and starts no further
part after ``--minutes``. ``--dry-run`` does all of it with a tiny model on the emulator; its times
mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from bench import machine
from bench.comparison.table import NONE, Grid
from bench.cuda_kernels import Case, KernelTime, kernel_times, read_write_gb_s
from bench.cuda_models import CONFIGS, TINY, Weights, checkpoint_of, spec_of
from inferlib import InferlibError, Model
from inferlib.assembly import assemble
from inferlib.config import EngineConfig, KvCacheSize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferlib.devices import Device

CASES = (
    Case(name="decode 1 x 1k", seqs=1, rows=1, context=1024),
    Case(name="decode 8 x 1k", seqs=8, rows=1, context=1024),
    Case(name="decode 64 x 1k", seqs=64, rows=1, context=1024),
    Case(name="decode 8 x 8k", seqs=8, rows=1, context=8192),
    Case(name="prefill 2k", seqs=1, rows=2048, context=2048),
)
DRY_CASES = (
    Case(name="decode 2", seqs=2, rows=1, context=40),
    Case(name="prefill", seqs=1, rows=20, context=20),
)
BATCHES, PROMPT, NEW_TOKENS = (1, 8, 64), 512, 128
DRY_BATCHES, DRY_PROMPT, DRY_NEW_TOKENS = (1, 2), 8, 3


def matmul_tflops() -> float | None:
    """What torch's bf16 matmul of 8192 cubed reaches; ``None`` without torch or a GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - start) / 1e12


def kernel_grid(times: Sequence[KernelTime], gb_s: float, tflops: float | None) -> Grid:
    """A line per kernel."""
    rows = []
    for each in times:
        read, rate = each.num_bytes / each.seconds / 1e9, each.flops / each.seconds / 1e12
        rows.append(
            [
                each.kernel,
                str(each.launches),
                f"{1e6 * each.seconds:,.1f}",
                f"{read:,.0f}" if each.num_bytes else NONE,
                f"{100 * read / gb_s:.0f}" if each.num_bytes else NONE,
                f"{rate:,.1f}" if each.flops else NONE,
                f"{100 * rate / tflops:.0f}" if each.flops and tflops else NONE,
            ]
        )
    total = sum(each.seconds for each in times)
    rows.append(["all", str(sum(each.launches for each in times)), f"{1e6 * total:,.1f}"])
    rows[-1] += [NONE] * 4
    header = ["kernel", "launches", "µs a step", "GB/s", "% of copy", "TFLOP/s", "% of matmul"]
    return Grid(header, rows)


def whole_model(
    name: str, weights: Weights, device: Device, *, is_dry: bool, gb_s: float
) -> list[dict[str, Any]]:
    """Prefill and decode of batches through the engine."""
    batches = DRY_BATCHES if is_dry else BATCHES
    prompt, new_tokens = (DRY_PROMPT, DRY_NEW_TOKENS) if is_dry else (PROMPT, NEW_TOKENS)
    config = EngineConfig(
        device=device,
        kv_cache=KvCacheSize(num_tokens=max(batches) * (prompt + new_tokens + 16)),
        max_model_len=prompt + new_tokens,
        max_num_batched_tokens=64 if is_dry else 4096,
        enable_prefix_caching=False,
        speculation="off",
    )
    spec = spec_of(name)
    vocab_size = spec.vocab_size
    looked_up_bytes = 2 * vocab_size * spec.hidden_size  # of which a step reads a few rows
    generator = np.random.default_rng(1)
    results = []
    with Model(assemble(checkpoint_of(name, weights, device), config)) as model:
        details = model.stats()["details"]
        for batch in batches:
            prompts = generator.integers(3, vocab_size, (batch, prompt)).tolist()

            def seconds(max_tokens: int, prompts: list[list[int]] = prompts) -> float:
                start = time.perf_counter()
                model.generate(prompts, max_tokens=max_tokens, temperature=0, ignore_eos=True)
                return time.perf_counter() - start

            seconds(new_tokens)  # loads kernels, captures graphs
            prefill = min(seconds(1) for _ in range(1 if is_dry else 3))
            decode = max(seconds(new_tokens) - prefill, 1e-9) / (new_tokens - 1)
            kv_bytes = details["kv_cache_bytes"] / config.kv_cache.num_tokens
            read_bytes = details["weight_bytes"] - looked_up_bytes + batch * prompt * kv_bytes
            floor = read_bytes / gb_s / 1e9
            results.append(
                {
                    "batch": batch,
                    "prefill_tokens_s": batch * prompt / prefill,
                    "decode_tokens_s": batch / decode,
                    "decode_step_ms": 1e3 * decode,
                    "roofline_ms": 1e3 * floor,
                }
            )
    return results


def model_grid(results: Sequence[dict[str, Any]]) -> Grid:
    """A line per batch."""
    rows = [
        [
            str(each["batch"]),
            f"{each['prefill_tokens_s']:,.0f}",
            f"{each['decode_tokens_s']:,.0f}",
            f"{each['decode_step_ms']:.3f}",
            f"{each['roofline_ms']:.3f}",
            f"{100 * each['roofline_ms'] / each['decode_step_ms']:.0f}",
        ]
        for each in results
    ]
    columns = ["prefill tok/s", "decode tok/s", "step ms", "roofline ms", "% of roofline"]
    return Grid(["batch", *columns], rows)


def opener(*, is_dry: bool) -> Callable[[], Device]:
    """How a device is opened."""
    if is_dry:
        from tests.cuda_emulator.device import EmulatedDevice

        return EmulatedDevice
    from inferlib.executors.cupy_device import open_gpu

    return open_gpu


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if there is no GPU."""
    options = _options(arguments)
    is_dry = options.dry_run
    open_device, start = opener(is_dry=is_dry), time.perf_counter()
    try:
        device = open_device()
    except InferlibError as error:
        print(error, file=sys.stderr)
        return 1
    gb_s = read_write_gb_s(device, num_bytes=1 << 16) if is_dry else read_write_gb_s(device)
    name = device.name
    device.close()
    tflops = None if is_dry else matmul_tflops()
    print(f"{name}: {gb_s:,.0f} GB/s, matmul {f'{tflops:,.0f} TFLOP/s' if tflops else 'unknown'}")
    found: dict[str, Any] = {
        "device": name,
        "commit": machine.commit(),
        "gb_s": gb_s,
        "matmul_tflops": tflops,
        "kernels": [],
        "models": [],
    }
    for model in options.models:
        for weights in options.weights:
            if time.perf_counter() - start > 60 * options.minutes:
                print(f"{model} {weights}: left out, {options.minutes} minutes are over")
                continue
            device = open_device()
            cases = DRY_CASES if is_dry else CASES
            min_seconds = 0.0 if is_dry else 0.05
            for case, times in kernel_times(device, model, weights, cases, min_seconds=min_seconds):
                print(f"\n{model} {weights}, {case.name}")
                print(kernel_grid(times, gb_s, tflops).text(), flush=True)
                entry = {"model": model, "weights": weights, "case": case.name}
                found["kernels"].append(entry | {"times": [asdict(each) for each in times]})
            device.synchronize()
            device.close()
            results = whole_model(model, weights, open_device(), is_dry=is_dry, gb_s=gb_s)
            print(f"\n{model} {weights}, whole, prompts of {DRY_PROMPT if is_dry else PROMPT}")
            print(model_grid(results).text(), flush=True)
            found["models"].append({"model": model, "weights": weights, "batches": results})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.cuda")
    parser.add_argument("--models", type=lambda text: text.split(","))
    parser.add_argument("--weights", default="bf16,int4", type=lambda text: text.split(","))
    parser.add_argument("--minutes", default=6.0, type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    known = TINY if options.dry_run else CONFIGS
    options.models = options.models or list(known)
    for wanted, all_known in ((options.models, known), (options.weights, get_args(Weights))):
        for name in wanted:
            if name not in all_known:
                parser.error(f"{name!r} is none of {', '.join(all_known)}")
    options.weights = cast("list[Weights]", options.weights)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
