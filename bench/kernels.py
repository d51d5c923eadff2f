"""How close is each kernel to what this machine can do?

    python -m bench.kernels [--quick] [--tiers avx512vnni,avx2] [--types Q4_0,F16] [--rows 1,8,512]
                            [--threads 1,2] [--precision fast|balanced|exact] [--json FILE]

Each kernel multiplies matrices of random weights in the shapes of real models. Its share is that of
the limit that binds it: read bandwidth (``m``) or arithmetic (``c``), both measured right before
each matrix, with the same tier and threads. Then attention, beside the medians of both: what fits
in the caches is read faster than memory. Then what a token costs to draw from a vocabulary of
262,144, beside a decode step of Gemma 3 270M, which has that vocabulary.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine
from bench.comparison.table import NONE, Grid
from inferlib import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHAPES = {
    "3072x576": "SmolLM2-135M gate+up",
    "16384x2048": "Llama-3.2-1B gate+up",
    "14336x4096": "Llama-3.1-8B up",
    "1536x2048": "Qwen3-30B-A3B expert gate+up",
}
TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "INT8", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "MXFP4", "F16", "BF16", "F32"),
)
QUICK_TYPES = ("Q4_0", "Q4_1", "Q8_0", "INT8", "Q4_K", "Q6_K", "F16")
FLOATS = ("F16", "BF16", "F32")
ROWS = (1, 2, 4, 6, 8, 16, 64, 512)
QUICK_ROWS = (1, 8, 64)
VOCAB_SIZE = 262_144
LM_HEAD = {"shapes": f"{VOCAB_SIZE}x640", "types": "Q8_0"}
"""Of Gemma 3 270M."""
LM_HEAD_SHARE = 178.3 / 246.6
"""Of the bytes that a decode step of Gemma 3 270M Q4_K_M reads."""
RESULTS = Path(__file__).parent / "results" / "kernels.json"
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the machine did right before a matrix was measured.

    Attributes:
        tier: Instruction set of the kernels.
        threads: How many.
        int8_peak_gops: int8 multiply-adds of all threads, times 2, in 1e9 per second.
        float_peak_gops: The same of float32.
        read_gb_s: Bytes that all threads read, in 1e9 per second.
    """

    tier: str
    threads: int
    int8_peak_gops: float
    float_peak_gops: float
    read_gb_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel at one size.

    Attributes:
        tier: Instruction set.
        threads: How many.
        shape: ``"OUTxIN"``.
        type: Of the weights.
        rows: Of the input.
        gb_s: Bytes of weights read, in 1e9 per second.
        gops: Multiply-adds, times 2, in 1e9 per second.
        share: Of the limit that binds it: its least time over its time.
        bound: ``"m"``: read bandwidth. ``"c"``: arithmetic.
    """

    tier: str
    threads: int
    shape: str
    type: str
    rows: int
    gb_s: float
    gops: float
    share: float
    bound: str


def kernels_of(
    lines: Iterable[Mapping[str, object]], precision: str = "fast"
) -> tuple[list[Limits], list[Kernel]]:
    """What the example of ``rust/cpu`` printed: limits, then the kernels measured after them."""
    limits: list[Limits] = []
    kernels: list[Kernel] = []
    for line in lines:
        if "read_gb_s" in line:
            limits.append(Limits(**line))
            continue
        if not limits:
            raise ValueError(f"there are no limits before {line}")
        kernels.append(_kernel(limits[-1], line, precision))
    return limits, kernels


def _kernel(limits: Limits, line: Mapping[str, object], precision: str) -> Kernel:
    in_float = precision == "exact" or line["type"] in FLOATS
    peak = limits.float_peak_gops if in_float else limits.int8_peak_gops
    of_bandwidth, of_peak = line["gb_s"] / limits.read_gb_s, line["gops"] / peak
    return Kernel(
        tier=limits.tier,
        threads=limits.threads,
        shape="x".join(map(str, line["shape"])),
        type=line["type"],
        rows=line["rows"],
        gb_s=line["gb_s"],
        gops=line["gops"],
        share=round(max(of_bandwidth, of_peak), 3),
        bound="m" if of_bandwidth >= of_peak else "c",
    )


def grid(kernels: Sequence[Kernel]) -> Grid:
    """Shares in percent: a line per shape and type, a column per number of rows."""
    columns = sorted({kernel.rows for kernel in kernels})
    cells: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for kernel in kernels:
        cell = f"{100 * kernel.share:.0f} {kernel.bound}"
        cells[kernel.shape, kernel.type][kernel.rows] = cell
    return Grid(
        ["share in %", "type", *(f"{rows} rows" if rows > 1 else "1 row" for rows in columns)],
        [
            [SHAPES.get(shape, shape), kind, *(found.get(rows, NONE) for rows in columns)]
            for (shape, kind), found in cells.items()
        ],
    )


def summary(kernels: Sequence[Kernel]) -> dict[str, dict[str, float]]:
    """Median share by tier and threads, by number of rows."""
    shares: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for kernel in kernels:
        key = f"{kernel.tier}, threads: {kernel.threads}"
        shares[key][str(kernel.rows)].append(kernel.share)
    return {
        key: {rows: round(statistics.median(values), 3) for rows, values in by_rows.items()}
        for key, by_rows in shares.items()
    }


def attention_of(
    lines: Iterable[Mapping[str, object]], tier: str, limits: Sequence[Limits]
) -> list[dict[str, object]]:
    """Each workload beside the medians of the tier's limits with as many threads."""
    bandwidth = statistics.median(limit.read_gb_s for limit in limits)
    peak = statistics.median(limit.float_peak_gops for limit in limits)
    return [
        {
            "tier": tier,
            **line,
            "of_bandwidth": round(line["gb_s"] / bandwidth, 3),
            "of_float_peak": round(line["gflops"] / peak, 3),
        }
        for line in lines
    ]


def attention_grid(attention: Iterable[Mapping[str, object]]) -> Grid:
    """A line per workload."""
    return Grid(
        ["attention", "rows@context", "µs a layer", "% of bandwidth", "% of float peak"],
        [
            [
                line["model"],
                line["work"],
                f"{line['best_us_layer']:.1f}",
                f"{100 * line['of_bandwidth']:.0f}",
                f"{100 * line['of_float_peak']:.0f}",
            ]
            for line in attention
        ],
    )


def sampling_of(
    lines: Iterable[Mapping[str, object]], lm_head_ms: float
) -> list[dict[str, object]]:
    """Each way to draw, beside the decode step whose ``lm_head`` takes so long."""
    step_us = 1e3 * lm_head_ms / LM_HEAD_SHARE
    return [{**line, "of_decode_step": round(line["best_us"] / step_us, 4)} for line in lines]


def stored(
    limits: Sequence[Limits],
    kernels: Sequence[Kernel],
    attention: Sequence[Mapping[str, object]],
    sampling: Sequence[Mapping[str, object]],
) -> dict[str, object]:
    """For the file: an entry per tier, threads, shape and type, a value per number of rows."""
    entries: dict[tuple[object, ...], dict[str, object]] = {}
    for kernel in kernels:
        values = asdict(kernel)
        varying = {name: values.pop(name) for name in ("rows", "gb_s", "gops", "share", "bound")}
        entry = entries.setdefault(tuple(values.values()), values | {name: [] for name in varying})
        for name, value in varying.items():
            entry[name].append(value)
    peaks: dict[tuple[str, int], list[Limits]] = defaultdict(list)
    for limit in limits:
        peaks[limit.tier, limit.threads].append(limit)
    names = ("int8_peak_gops", "float_peak_gops", "read_gb_s")
    return {
        "limits": [
            {
                "tier": tier,
                "threads": threads,
                **{
                    name: round(statistics.median(getattr(limit, name) for limit in of), 1)
                    for name in names
                },
            }
            for (tier, threads), of in peaks.items()
        ],
        "median_shares": summary(kernels),
        "sampling": list(sampling),
        "attention": list(attention),
        "kernels": list(entries.values()),
    }


def example(name: str, *arguments: object) -> list[dict[str, object]]:
    """Build and run an example of ``rust/cpu``; its JSON lines."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "inferlib-cpu"]
    command += ["--features", "measure", "--example", name, "--", *map(str, arguments)]
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    except FileNotFoundError:
        raise SystemExit(
            "the kernels are measured by an example of rust/cpu: cargo is needed"
        ) from None
    except subprocess.CalledProcessError as error:
        # It has said why.
        raise SystemExit(error.returncode) from None
    return [json.loads(line) for line in result.stdout.splitlines()]


def options_of(values: Mapping[str, object]) -> list[str]:
    """As the command line takes them."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def write(result: Mapping[str, object], path: Path) -> None:
    """An entry of a list per line."""
    parts = []
    for name, value in result.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf8")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the best tier, fewer types and rows")
    parser.add_argument("--tiers", help="all but scalar, which nobody runs for speed")
    parser.add_argument("--types")
    parser.add_argument("--rows")
    parser.add_argument("--threads", default=",".join(sorted({"1", str(machine.cores())})))
    parser.add_argument("--precision", choices=["fast", "balanced", "exact"], default="fast")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    tiers = [tier for tier in _core.CpuExecutor.tiers() if tier != "scalar"] or ["scalar"]
    if arguments.tiers:
        tiers = arguments.tiers.split(",")
    elif arguments.quick:
        tiers = tiers[:1]
    every = {
        "shapes": ",".join(SHAPES),
        "types": arguments.types or ",".join(QUICK_TYPES if arguments.quick else TYPES),
        "rows": arguments.rows or ",".join(map(str, QUICK_ROWS if arguments.quick else ROWS)),
        "precision": arguments.precision,
        "milliseconds": 40 if arguments.quick else 100,
    }
    limits: list[Limits] = []
    kernels: list[Kernel] = []
    attention: list[dict[str, object]] = []
    for tier in tiers:
        for threads in map(int, arguments.threads.split(",")):
            options = options_of({**every, "tier": tier, "threads": threads})
            found, measured = kernels_of(example("kernels", *options), arguments.precision)
            print(f"\n{tier}, {threads} {'thread' if threads == 1 else 'threads'}")
            print(grid(measured).text(), flush=True)
            lines = example("attention", *options_of({"tier": tier, "threads": threads}))
            attended = attention_of(lines, tier, found)
            print(attention_grid(attended).text(), flush=True)
            attention += attended
            limits += found
            kernels += measured
    head = example("kernels", *options_of({**LM_HEAD, "rows": 1, "tier": tiers[0]}))
    drawn = sampling_of(example("sampling", VOCAB_SIZE, tiers[0]), head[-1]["best_ms"])
    print(f"\nsampling from {VOCAB_SIZE:,} tokens, {tiers[0]}: µs, % of a decode step")
    for line in drawn:
        share = 100 * line["of_decode_step"]
        print(f"{line['sampling']:20} {line['best_us']:8.1f} {share:6.2f}")
    result = {
        "precision": arguments.precision,
        "quick": arguments.quick,
        **stored(limits, kernels, attention, drawn),
        **machine.describe(),
    }
    write(result, arguments.json)
    lists = ("kernels", "attention")
    print(json.dumps({name: value for name, value in result.items() if name not in lists}))


if __name__ == "__main__":
    main()
