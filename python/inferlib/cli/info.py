"""``info``: what a model is and what it will need, from its headers alone."""

from __future__ import annotations

import json
import sys
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import read_checkpoint
from ..config import BLOCK_SIZE, EngineConfig, format_bytes
from ..errors import OutOfMemoryError
from ..executors.cpu import block_bytes
from ..host_memory import free_bytes
from ..loading import load
from ..model_size import size_of
from ..model_spec import LatentAttentionSpec
from .options import MODEL_HELP

if TYPE_CHECKING:
    import argparse

    from ..loading import LoadedModel
    from ..model_spec import AttentionSpec, ModelSpec

HELP = "Say what a model is and what it will need, from its headers alone."
EPILOG = "Example: python -m inferlib info smollm2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(namespace: argparse.Namespace) -> int:
    """Write what is known to stdout."""
    facts = describe(load(namespace.model))
    if namespace.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{name:<14}{value}\n" for name, value in _lines(facts)))
    return 0


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """Collect what a model's headers say, and what it will take."""
    checkpoint = read_checkpoint(loaded)
    spec, weights = loaded.spec, loaded.weights
    infos = [weights.info(name) for name in weights.names]
    try:
        size = size_of(checkpoint, EngineConfig())
    except OutOfMemoryError:
        size = None
    per_token = {
        precision: block_bytes(loaded.program, precision) // BLOCK_SIZE
        for precision in ("fast", "exact")
    }
    return {
        "path": str(loaded.path),
        # Whatever its tensors became in memory.
        "format": Path(loaded.files[0]).suffix.removeprefix("."),
        "files": len(loaded.files),
        "file_bytes": sum(Path(file).stat().st_size for file in loaded.files),
        "architecture": spec.architecture,
        "parameters": sum(prod(shape) for _, shape in infos),
        "tensor_types": dict(Counter(kind for kind, _ in infos).most_common()),
        "layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "attention": _attention(spec),
        "vocab_size": spec.vocab_size,
        "context": spec.max_position_embeddings,
        "tokenizer": checkpoint.tokenizer is not None,
        "chat_template": loaded.text.chat_template is not None,
        "end_token_ids": sorted(checkpoint.eos_token_ids),
        "generation_config": dict(checkpoint.generation_config),
        "kv_bytes_per_token": per_token,
        "auto_kv_cache_bytes": size and size.kv_cache_bytes,
        "auto_kv_cache_tokens": size and size.num_blocks * BLOCK_SIZE,
        "free_bytes": free_bytes(),
    }


def _attention(spec: ModelSpec) -> str:
    """Describe heads and windows, as they differ between layers."""
    kinds = Counter(_heads(layer.attention) for layer in spec.layers)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{count} layers with {kind}" for kind, count in kinds.items())


def _heads(attention: AttentionSpec | LatentAttentionSpec) -> str:
    if isinstance(attention, LatentAttentionSpec):
        cached = attention.latent_dim + attention.rope_dim
        return f"{attention.num_heads} heads that share a latent of {cached}"
    window = f", window {attention.window:,}" if attention.window else ""
    heads, kv_heads = attention.num_heads, attention.num_kv_heads
    return f"{heads} heads, {kv_heads} for K and V, of {attention.head_dim}{window}"


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    types = ", ".join(f"{count} {kind}" for kind, count in facts["tensor_types"].items())
    files = f" in {facts['files']} files" if facts["files"] > 1 else ""
    per_token = facts["kv_bytes_per_token"]
    tokenizer = "" if facts["tokenizer"] else ", no tokenizer"
    defaults = json.dumps(facts["generation_config"]) if facts["generation_config"] else "none"
    return [
        ("file", facts["path"]),
        ("format", f"{facts['format']}, {format_bytes(facts['file_bytes'])}{files}"),
        ("model", f"{facts['architecture']}, {facts['parameters'] / 1e6:,.1f} M parameters"),
        ("tensors", types),
        ("shape", f"{facts['layers']} layers, width {facts['hidden_size']:,}"),
        ("attention", facts["attention"]),
        ("vocabulary", f"{facts['vocab_size']:,}{tokenizer}"),
        ("context", f"{facts['context']:,} tokens"),
        ("chat", "yes" if facts["chat_template"] else "no chat template"),
        ("ends with", ", ".join(map(str, facts["end_token_ids"])) or "nothing"),
        ("defaults", defaults),
        (
            "KV cache",
            f"{format_bytes(per_token['fast'])} per token (exact: "
            f"{format_bytes(per_token['exact'])})",
        ),
        ("memory", _memory(facts)),
    ]


def _memory(facts: dict[str, Any]) -> str:
    weights = f"weights about {format_bytes(facts['file_bytes'])}"
    free = f"{format_bytes(facts['free_bytes'])} free"
    if facts["auto_kv_cache_bytes"] is None:
        return f"{weights}: too much for this machine, {free}"
    return (
        f"{weights}; KV cache at most {format_bytes(facts['auto_kv_cache_bytes'])} "
        f"for {facts['auto_kv_cache_tokens']:,} tokens; {free}"
    )
