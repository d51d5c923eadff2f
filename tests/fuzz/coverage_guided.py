"""Runs the coverage-guided fuzzers and adds up: ``python -m tests.fuzz.coverage_guided``.

The Rust targets are those of ``rust/fuzz``, compiled with counters at every branch by the stable
toolchain; the Python ones are those of ``python_parsers.py``. Each runs for so many seconds, its
corpus (``target/fuzz/corpus``) is then reduced to what its coverage needs, and executions, seconds
and findings are added to ``bench/results/fuzz.json``. An input that fails is kept in
``target/fuzz/findings``: mend it, and copy it to ``rust/fuzz/seeds/<target>/``, which CI replays.
"""

# ruff: noqa: T201  # a program that prints

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import commit

ROOT = Path(__file__).parents[2]
SEEDS = ROOT / "rust" / "fuzz" / "seeds"
DICTIONARIES = ROOT / "rust" / "fuzz" / "dictionaries"
WORK = ROOT / "target" / "fuzz"
RESULTS = ROOT / "bench" / "results" / "fuzz.json"
TRIPLE = "x86_64-unknown-linux-gnu"
FLAGS = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "--cfg=fuzzing",
]
PYTHON_TARGETS = ("config", "checkpoint_log", "saved_sequence", "output_syntax")
MOST_BYTES = {"regex": 96, "lark": 256, "json_schema": 512, "chat_template": 1024}
"""Longest inputs; 4,096 bytes for the others. A grammar's cost grows faster than its text."""
HANGS_SECONDS = 20
"""When libFuzzer itself ends an input; the target's own clock fails it after one second."""
INTERRUPTED = 72


def rust_targets() -> list[str]:
    return sorted(path.stem for path in (ROOT / "rust" / "fuzz" / "targets").glob("*.rs"))


def build() -> None:
    """Compile the Rust targets, with counters in all crates but the standard library."""
    command = ["cargo", "build", "--quiet", "--profile", "fuzz", "--package", "inferlib-fuzz"]
    # With a target, the flags are not those of build scripts and macros.
    command += ["--features", "libfuzzer", "--bins", "--target", TRIPLE, "--target-dir", str(WORK)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"RUSTFLAGS": " ".join(FLAGS)}, check=True)


def command_of(target: str) -> list[str]:
    if target in PYTHON_TARGETS:
        return [sys.executable, "-m", "tests.fuzz.python_parsers", target]
    return [str(WORK / TRIPLE / "fuzz" / target)]


def run(target: str, seconds: int, runs: int = -1) -> tuple[int, float, int, str | None]:
    """Fuzz one target; executions (at most ``runs``), seconds, edges and the path of a finding."""
    corpus, findings = WORK / "corpus" / target, WORK / "findings" / target
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-runs={runs}",
        f"-timeout={HANGS_SECONDS}",
        f"-max_len={MOST_BYTES.get(target, 4096)}",
        f"-artifact_prefix={findings}/",
        "-entropic_scale_per_exec_time=1",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    dictionary = DICTIONARIES / f"{target}.dict"
    if dictionary.exists():
        options.append(f"-dict={dictionary}")
    folders = [str(corpus)] + ([str(SEEDS / target)] if (SEEDS / target).exists() else [])
    in_memory = Path("/dev/shm")  # noqa: S108  # small files that are written for each execution
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as scratch:
        done = subprocess.run(
            [*command_of(target), *options, *folders],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": scratch},
            stderr=subprocess.PIPE,
            check=False,
        )
    elapsed = time.monotonic() - start
    log = done.stderr.decode("utf8", "replace")
    executions = [int(number) for number in re.findall(r"number_of_executed_units:\s*(\d+)", log)]
    executions += [int(number) for number in re.findall(r"^#(\d+)\t", log, re.MULTILINE)]
    edges = [int(number) for number in re.findall(r"cov: (\d+)", log)]
    finding = None
    if done.returncode not in (0, INTERRUPTED):
        written = re.search(r"Test unit written to (\S+)", log)
        finding = written[1] if written else "(no input was written)"
        print(log[-4000:])
    return max(executions, default=0), elapsed, max(edges, default=0), finding


def reduce_corpus(target: str) -> None:
    """Keep the inputs that the coverage needs."""
    corpus, reduced = WORK / "corpus" / target, WORK / "corpus" / f"{target}.reduced"
    shutil.rmtree(reduced, ignore_errors=True)
    reduced.mkdir()
    folders = [str(reduced), *([str(SEEDS / target)] if (SEEDS / target).exists() else [])]
    options = [f"-timeout={HANGS_SECONDS}", f"-artifact_prefix={WORK / 'findings' / target}/"]
    command = [*command_of(target), "-merge=1", *options, *folders, str(corpus)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 0:
        shutil.rmtree(corpus)
        reduced.rename(corpus)
    else:
        shutil.rmtree(reduced)


def stored(target: str) -> int:
    """Executions of all runs so far."""
    results = json.loads(RESULTS.read_text(encoding="utf8")) if RESULTS.exists() else {}
    return results.get(target, {}).get("executions", 0)


def add_up(target: str, executions: int, seconds: float, edges: int, findings: int) -> None:
    """Add a run to the results. Of several at once one waits for the other."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _add_up(target, executions, seconds, edges, findings)


def _add_up(target: str, executions: int, seconds: float, edges: int, findings: int) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf8")) if RESULTS.exists() else {}
    entry = results.setdefault(target, {"executions": 0, "seconds": 0, "findings": 0})
    entry["executions"] += executions
    entry["seconds"] = round(entry["seconds"] + seconds)
    entry["findings"] += findings
    entry["edges"] = max(edges, entry.get("edges", 0))
    entry["last_run"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    entry["commit"] = commit()
    text = json.dumps(dict(sorted(results.items())), indent=2)
    RESULTS.write_text(f"{text}\n", encoding="utf8")


def main() -> int:
    known = [*rust_targets(), *PYTHON_TARGETS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--up-to", type=int, help="end when this many are stored, however long ago")
    parser.add_argument("--target", action="append", choices=known, help="all if not given")
    parser.add_argument("--no-build", action="store_true", help="as it was compiled last")
    parser.add_argument("--no-reduce", action="store_true", help="leave the corpus as it grew")
    arguments = parser.parse_args()
    targets = arguments.target or known
    if not arguments.no_build and not set(targets) <= set(PYTHON_TARGETS):
        build()
    failed = []
    for target in targets:
        runs = -1  # no limit
        if arguments.up_to is not None:
            runs = arguments.up_to - stored(target)
            if runs <= 0:
                continue
        executions, seconds, edges, finding = run(target, arguments.seconds, runs)
        rate = executions / max(seconds, 1e-9)
        print(f"{target:18s}{executions:>12,d} executions{rate:>10,.0f}/s{edges:>8,d} edges")
        add_up(target, executions, seconds, edges, int(finding is not None))
        if finding is not None:
            print(f"{target}: FAILED, kept {finding}")
            failed.append(target)
        elif not arguments.no_reduce:
            reduce_corpus(target)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
