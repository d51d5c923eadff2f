"""Tiny golden checkpoints, and canonical weights from any mapping of tensors, in plain NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.reference import ReferenceExecutor

from inferlib.architectures import AddOne, Fields, UnpermuteQk, WeightMap, architecture_of_config
from inferlib.transformer import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TINY = Path(__file__).parent / "golden" / "data" / "tiny"


def canonical_weights(
    program: Any, weight_map: WeightMap, tensors: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    """Every weight of the program, its parts transformed and stacked."""
    weights = {}
    for name in program.weights:
        parts = []
        for part in weight_map[name]:
            tensor = np.asarray(tensors[part.tensor], np.float32)
            assert len(tensor) == part.rows, part
            match part.transform:
                case UnpermuteQk():
                    tensor = tensor[part.transform.row_order()]
                case AddOne():
                    tensor = tensor + np.float32(1)
            parts.append(tensor)
        weights[name] = np.concatenate(parts)
    return weights


def reference_executor(case: str) -> ReferenceExecutor:
    """The oracle with the weights of a golden case."""
    from safetensors.numpy import load_file

    config = Fields(json.loads((TINY / case / "config.json").read_text()), source="config.json")
    family = architecture_of_config(config)
    spec = family.spec_from_config(config)
    program = record(spec)
    tensors = load_file(TINY / case / "model.safetensors")
    weight_map = family.weights_from_safetensors(spec, tensors.keys())
    return ReferenceExecutor(program, canonical_weights(program, weight_map, tensors))
