"""Which changes of the scheduler's code no Rust test notices.

    make mutants [ARGS="--files 'rust/core/src/kv_cache/**' --shard 0/8"]

``cargo-mutants`` changes one thing at a time (an operator, a result) in a copy of the checkout and
runs the tests of ``rust/core``; a change that they pass is missed. What a run found of a file goes
into ``bench/results/mutants.json``, whole files or a sample (``--shard``); explanations that were
written there stay.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results" / "mutants.json"
FILES = (
    *("rust/core/src/kv_cache.rs", "rust/core/src/kv_cache/**"),
    *("rust/core/src/scheduler.rs", "rust/core/src/scheduler/**"),
)
QUICK_BUILDS = {
    "CARGO_PROFILE_DEV_OPT_LEVEL": "1",
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "CARGO_INCREMENTAL": "1",
    "PROPTEST_RNG_SEED": "7",
}
TIMEOUT = "60"
"""Seconds: the tests take two."""
UNEXPLAINED = "not looked at yet"


def run(folder: Path, files: list[str], shard: str | None) -> None:
    """Let it find what it finds: ``folder/mutants.out/outcomes.json``."""
    command = ["cargo", "mutants", "-p", "inferlib-core", "--test-tool", "nextest"]
    command += ["--baseline", "skip", "--timeout", TIMEOUT, "--no-shuffle", "-o", str(folder)]
    command += [word for pattern in files for word in ("-f", pattern)]
    command += [] if shard is None else ["--shard", shard]
    # 2: some are missed. 3: some ran out of time, as loops without an end do.
    status = subprocess.run(
        command, cwd=ROOT, env=os.environ | QUICK_BUILDS, check=False
    ).returncode
    if status not in (0, 2, 3):
        raise subprocess.CalledProcessError(status, command)


def name_of(mutant: dict[str, Any]) -> str:
    """What was changed, without its line, which moves: explanations are found again by it."""
    function = mutant["function"]["function_name"] if mutant["function"] else "a constant"
    return f"{function}: {mutant['replacement']} in the place of {mutant['genre']}"


def found(outcomes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By file: how many were caught, ran out of time, do not compile; which were missed."""
    files: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        if outcome["scenario"] == "Baseline":
            continue
        mutant = outcome["scenario"]["Mutant"]
        file = files.setdefault(mutant["file"], {"counts": Counter(), "missed": {}})
        file["counts"][outcome["summary"]] += 1
        if outcome["summary"] == "MissedMutant":
            place = f"{mutant['span']['start']['line']}: {name_of(mutant)}"
            file["missed"][place] = UNEXPLAINED
    return files


def add_up(files: dict[str, dict[str, Any]], shard: str | None) -> None:
    """Write what was found of these files over what was known of them."""
    known = json.loads(RESULTS.read_text(encoding="utf8")) if RESULTS.exists() else {}
    for path, file in files.items():
        counts, before = file["counts"], known.get(path, {}).get("missed", {})
        explained = {place.partition(": ")[2]: text for place, text in before.items()}
        known[path] = {
            "sample": shard or "all",
            "caught": counts["CaughtMutant"] + counts["Timeout"],
            "missed": {
                place: explained.get(place.partition(": ")[2], text)
                for place, text in file["missed"].items()
            },
        }
    RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf8")


def main() -> int:
    """Run, add up, say what share was caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="+", default=list(FILES), help="patterns of paths")
    parser.add_argument("--shard", help="K/N: every N-th change, from the K-th on")
    parser.add_argument(
        "--read", type=Path, nargs="+", help="outcomes.json of earlier runs instead"
    )
    arguments = parser.parse_args()
    if arguments.read:
        texts = [path.read_text(encoding="utf8") for path in arguments.read]
    elif shutil.which("cargo-mutants") is None:
        sys.stderr.write("cargo-mutants is not installed (cargo install cargo-mutants)\n")
        return 1
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), arguments.files, arguments.shard)
            outcomes = Path(folder) / "mutants.out" / "outcomes.json"
            texts = [outcomes.read_text(encoding="utf8")]
    # Of a change that was tried twice the later outcome counts.
    last = {
        json.dumps(outcome["scenario"]): outcome
        for text in texts
        for outcome in json.loads(text)["outcomes"]
    }
    files = found(list(last.values()))
    add_up(files, arguments.shard)
    missed = sum(len(file["missed"]) for file in files.values())
    counts = sum((file["counts"] for file in files.values()), Counter[str]())
    caught = counts["CaughtMutant"] + counts["Timeout"]
    unviable = f"{counts['Unviable']} do not compile"
    sys.stdout.write(f"{caught} of {caught + missed} changes were noticed, {unviable}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
