"""Test doubles for those who build on inferlib: a model in milliseconds, without any file.

``tiny_model()`` is a whole ``Model`` (tokenizer, scheduler, kernels, streams) whose weights are
random numbers made in code. What it says is nonsense, but the same nonsense for the same seed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Unpack

import numpy as np

from ._core import ChatTemplate, Tokenizer
from .assembly import Checkpoint, assemble
from .call_options import LoadOptions
from .config import EngineConfig, KvCacheSize
from .errors import RequestError
from .model import Model
from .model_spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, RopeSpec
from .transformer import record
from .validation import check_keywords

if TYPE_CHECKING:
    from ._core import Program
    from .executors.base import WeightReceiver

BOS_TOKEN, EOS_TOKEN = "<|begin|>", "<|end|>"
BOS_ID, EOS_ID = 256, 257
VOCAB_SIZE = 258
"""256 bytes and two special tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
)


def tiny_model(
    *,
    seed: int = 0,
    max_position_embeddings: int = 1024,
    num_layers: int = 2,
    with_tokenizer: bool = True,
    **options: Unpack[LoadOptions],
) -> Model:
    """Make a small Llama with random weights.

    Args:
        seed: Of the weights.
        max_position_embeddings: Longest sequence in tokens.
        num_layers: Layers.
        with_tokenizer: ``False``: a checkpoint without a tokenizer, for token ids only.
        **options: As for ``Model.from_pretrained``; ``threads`` is 1 unless given.

    Raises:
        RequestError: An option is invalid; ``field`` names it.
    """
    check_keywords(options, LoadOptions.__annotations__)
    settings = dict(options)
    template = settings.pop("chat_template", None)
    settings["kv_cache"] = KvCacheSize.parse(settings.get("kv_cache", "auto"))
    settings.setdefault("threads", 1)
    config = EngineConfig(**settings)  # type: ignore[arg-type]  # checked there
    if config.packed_cache is not None:
        raise RequestError(
            "packed_cache is for models that are loaded from files", field="packed_cache"
        )
    source = CHAT_TEMPLATE if template is None else str(template)
    spec = tiny_spec(num_layers=num_layers, max_position_embeddings=max_position_embeddings)
    program = record(spec)
    checkpoint = Checkpoint(
        name="tiny",
        source=None,
        spec=spec,
        program=program,
        load_weights=lambda executor, _cache: load_random_weights(executor, program, seed),
        weight_bytes=4 * sum(int(np.prod(shape)) for shape in program.weights.values()),
        tokenizer=byte_tokenizer() if with_tokenizer else None,
        chat_template=ChatTemplate(source, {"bos_token": BOS_TOKEN}),
        chat_template_text=source,
        generation_config={},
        eos_token_ids=(EOS_ID,),
        hash_weights=lambda: f"random weights, seed {seed}, {num_layers} layers",
    )
    return Model(assemble(checkpoint, config))


def tiny_spec(*, num_layers: int = 2, max_position_embeddings: int = 1024) -> ModelSpec:
    """Describe a small Llama: grouped KV heads, tied embedding."""
    head_dim = 16
    pairs = np.arange(0, head_dim, 2) / head_dim
    attention = AttentionSpec(
        num_heads=4,
        num_kv_heads=2,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=RopeSpec(inv_freq=tuple((10_000.0**-pairs).tolist())),
    )
    layer = LayerSpec(attention=attention, mlp=MlpSpec(intermediate_size=128, activation="silu"))
    return ModelSpec(
        architecture="llama",
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        layers=(layer,) * num_layers,
        norm_eps=1e-5,
        max_position_embeddings=max_position_embeddings,
        tied_embeddings=False,
    )


def load_random_weights(executor: WeightReceiver, program: Program, seed: int) -> None:
    """Give an executor every weight: norms of ones, biases of zeros, matrices of random numbers.

    They are scaled so that the logits spread enough for greedy decoding to be stable.
    """
    generator = np.random.default_rng(seed)
    for name, shape in program.weights.items():
        if len(shape) > 1:
            scale = 3.0 if name == "lm_head.weight" else 1.0
            values = generator.standard_normal(shape, np.float32) * scale / np.sqrt(shape[-1])
            executor.load_array(name, values.astype(np.float32))
        elif name.endswith(".bias"):
            executor.load_vector(name, np.zeros(shape, np.float32))
        else:
            executor.load_vector(name, np.ones(shape, np.float32))


def byte_tokenizer() -> Tokenizer:
    """Make a tokenizer whose tokens are the 256 bytes, ``<|begin|>`` and ``<|end|>``."""
    return Tokenizer.from_json(*byte_tokenizer_files())


def byte_tokenizer_files() -> tuple[bytes, bytes]:
    """Return ``tokenizer.json`` and ``tokenizer_config.json`` of ``byte_tokenizer``."""
    added = {
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "added_tokens": [
            {"id": BOS_ID, "content": BOS_TOKEN, **added},
            {"id": EOS_ID, "content": EOS_TOKEN, **added},
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "vocab": {character: byte for byte, character in _byte_names().items()},
            "merges": [],
        },
    }
    config = {
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "chat_template": CHAT_TEMPLATE,
    }
    return json.dumps(tokenizer).encode(), json.dumps(config).encode()


def _byte_names() -> dict[int, str]:
    """The character that stands for each byte in byte-level vocabularies.

    Source: GPT-2's ``bytes_to_unicode``: printable bytes stand for themselves, the others for the
    characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return dict(sorted(names.items()))
