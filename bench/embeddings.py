"""How many texts per second become vectors, beside ONNX Runtime's int8 on the same machine?

    python -m bench.embeddings [--threads N] [--rounds 3] [--peers .venv-peers] [--json FILE]

MiniLM (all-MiniLM-L6-v2), lists of texts of several lengths; all are given the same token ids, so
that tokenizers do not count. Ours runs as the checkpoint is (float32), with ``quantize="q8_0"``,
and with ``"int8"``, the like of what ONNX Runtime runs: one scale for whole rows. That runs the
same checkpoint, exported here without torch as one graph of plain operators and quantized by its
own ``quantize_dynamic`` (int8 weights, uint8 activations). It gets what it likes best: texts sorted
by length, batches of 32, padded to the longest. Engines take turns. Cosines against our exact
precision say what speed costs.

The peers' environment is made by ``python -m bench.peers.install FOLDER --requirements
bench/peers/requirements-onnx.txt``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import inferlib
from bench import machine, models

WORKLOADS = {
    "16 tokens": (512, 16, 16),
    "64 tokens": (256, 64, 64),
    "8 to 256 tokens": (256, 8, 256),
}
"""Texts, shortest and longest in tokens."""
TARGET = 1.5
REST_SECONDS = 0.5
"""Before each turn: threads that wait for more work go on spinning for a while, on all cores."""


def texts(random: np.random.Generator, count: int, shortest: int, longest: int) -> list[list[int]]:
    """Token ids between MiniLM's [CLS] and [SEP]."""
    lengths = random.integers(shortest, longest + 1, count)
    return [[101, *random.integers(1996, 30_000, n - 2).tolist(), 102] for n in lengths]


def ours(model: inferlib.Model, given: list[list[int]]) -> tuple[float, np.ndarray]:
    """Seconds, and the vectors."""
    start = time.perf_counter()
    vectors = model.embed(given, progress=False)
    return time.perf_counter() - start, vectors


class Peer:
    """ONNX Runtime in its own environment and process."""

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        adapter = Path(__file__).parent / "peers" / "onnx_encoder.py"
        self._process = subprocess.Popen(
            [str(python), str(adapter), str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()["version"]

    def _answer(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            msg = "the peer ended; its message stands above"
            raise RuntimeError(msg)
        return dict(json.loads(line))

    def run(self, given: list[list[int]]) -> tuple[float, np.ndarray]:
        """Seconds, and the vectors."""
        assert self._process.stdin is not None
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            request = json.dumps({"texts": given, "out": file.name})
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            answer = self._answer()
            return float(str(answer["seconds"])), np.load(file.name)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest over the rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def compare(
    given: list[list[int]],
    ours_by_name: dict[str, inferlib.Model],
    exact: inferlib.Model,
    peer: Peer | None,
    *,
    rounds: int,
) -> dict[str, object]:
    """One workload, engines in turns: texts per second, cosines, and the ratio."""
    expected = ours(exact, given)[1]
    engines = {name: partial(ours, model, given) for name, model in ours_by_name.items()}
    if peer is not None:
        engines["onnxruntime int8"] = partial(peer.run, given)
    speeds: dict[str, list[float]] = {engine: [] for engine in engines}
    row: dict[str, object] = {"tokens": sum(map(len, given)), "texts": len(given)}
    for turn in range(rounds + 1):
        for engine, run in engines.items():
            time.sleep(REST_SECONDS)
            seconds, vectors = run()
            if turn == 0:  # to warm up
                row[f"{engine} cosine"] = cosine(vectors, expected)
            else:
                speeds[engine].append(len(given) / seconds)
    medians = {engine: statistics.median(found) for engine, found in speeds.items()}
    row |= {f"{engine} texts/s": speed for engine, speed in medians.items()}
    if peer is not None:
        for name in ("inferlib q8_0", "inferlib int8"):
            row[f"{name} ratio"] = medians[name] / medians["onnxruntime int8"]
        row["target"] = TARGET
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=Path(sys.prefix + "-peers"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder, random = models.minilm(), np.random.default_rng(1)
    options = {"threads": arguments.threads, "device": "cpu"}
    python = arguments.peers / "bin" / "python"
    peer = Peer(python, folder, arguments.threads) if python.exists() else None
    if peer is None:
        print(f"no environment {arguments.peers}: measured alone", file=sys.stderr)
    rows: dict[str, dict[str, object]] = {}
    with (
        inferlib.Model.from_pretrained(folder, quantize="q8_0", **options) as blocks,
        inferlib.Model.from_pretrained(folder, quantize="int8", **options) as by_rows,
        inferlib.Model.from_pretrained(folder, **options) as plain,
        inferlib.Model.from_pretrained(folder, precision="exact", **options) as exact,
    ):
        for name, workload in WORKLOADS.items():
            rows[name] = compare(
                texts(random, *workload),
                {"inferlib q8_0": blocks, "inferlib int8": by_rows, "inferlib f32": plain},
                exact,
                peer,
                rounds=arguments.rounds,
            )
            print(name, json.dumps(rows[name]), flush=True)
    result = {
        "machine": machine.describe(),
        "threads": arguments.threads,
        "onnxruntime": None if peer is None else peer.version,
        "workloads": rows,
    }
    if peer is not None:
        peer.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
