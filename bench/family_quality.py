"""How far is fast arithmetic from exact, for a tiny checkpoint of each family?

    python -m bench.family_quality [--json FILE]

The checkpoints are those that transformers' results are stored for (``tests/golden``): random
weights of a few layers, so the figures say which family's arithmetic loses something, not how good
a real model of it is (``bench.quality`` says that). Each is compared with itself in exact
precision over its whole vocabulary: as it is stored (float weights are multiplied in float32, so
what remains is the f16 KV cache), and with ``quantize="q8_0"``, which adds codes of weights and
activations. Encoders have no such distribution: the cosine of their vectors is stored instead.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import machine
from bench.comparison.table import Grid
from bench.divergence import Divergence
from bench.peers.ours import Engine
from inferlib import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
TINY = ROOT / "tests" / "golden" / "data" / "tiny"
RESULTS = ROOT / "bench" / "results" / "family-quality.json"
KINDS: dict[str, dict[str, Any]] = {
    "fast": {},
    "balanced": {"precision": "balanced"},
    "fast, q8_0": {"quantize": "q8_0"},
    "balanced, q8_0": {"precision": "balanced", "quantize": "q8_0"},
}
CLASSIFIERS = frozenset({"bert-classifier"})
ENCODERS = CLASSIFIERS | {"bert-embedding", "qwen3-embedding", "xlm-roberta-embedding"}
SEQUENCES, TOKENS = 8, 64


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    families = {path.name: measure(path) for path in sorted(TINY.iterdir()) if path.is_dir()}
    print(grid(families).text())
    described = {"machine": machine.describe(), "families": families}
    arguments.json.write_text(json.dumps(described, indent=1) + "\n", encoding="utf8")


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Of each kind of arithmetic: how far from exact."""
    config = json.loads((path / "config.json").read_text(encoding="utf8"))
    vocab_size = config.get("vocab_size") or config["text_config"]["vocab_size"]
    draws = np.random.default_rng(1).integers(3, vocab_size, (SEQUENCES, TOKENS)).tolist()
    if path.name in ENCODERS:
        return _encoder(path, draws)
    exact = Engine(str(path), threads=1, precision="exact")
    found = {}
    for kind, options in KINDS.items():
        model = Engine(str(path), threads=1, **options)
        parts = [
            Divergence.between(
                exact.score(token_ids, vocab_size), model.score(token_ids, vocab_size)
            )
            for token_ids in draws
        ]
        found[kind] = Divergence.joined(parts).summary()
    return found


def _encoder(path: Path, draws: Sequence[list[int]]) -> dict[str, dict[str, float]]:
    def vectors(**options: Any) -> np.ndarray:  # as from_pretrained takes them
        with Model.from_pretrained(path, threads=1, **options) as model:
            if path.name in CLASSIFIERS:
                found = model.classify(list(draws))
                return np.asarray([list(each.logits.values()) for each in found], np.float32)
            return model.embed(list(draws))

    exact = vectors(precision="exact")
    return {
        kind: {"cosine_min": _cosine(exact, vectors(**options))} for kind, options in KINDS.items()
    }


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(1) / lengths).min())


def grid(families: dict[str, dict[str, dict[str, float]]]) -> Grid:
    """A row per family: mean divergence, or the smallest cosine."""
    rows = [
        [
            name,
            *(
                f"{each['kld_mean']:.1e}" if "kld_mean" in each else f"cos {each['cosine_min']:.6f}"
                for each in kinds.values()
            ),
        ]
        for name, kinds in families.items()
    ]
    return Grid(header=["family", *KINDS], rows=rows)


if __name__ == "__main__":
    main()
