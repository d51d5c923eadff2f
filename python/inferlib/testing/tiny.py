"""A model in milliseconds, without any file: random weights, everything else as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .._core import ChatTemplate, Tokenizer
from ..assembly import StandIns, assemble
from ..call_options import LoadOptions
from ..checkpoint import Checkpoint
from ..config import EngineConfig
from ..draft_loading import opened_draft_model
from ..model import Model
from ..model_spec import AttentionSpec, LayerSpec, MlpSpec, ModelSpec, RopeSpec
from ..transformer import record
from ..validation import check_keywords, text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .._core import Program
    from ..executors.base import ArrayReceiver, WeightReceiver
    from .faults import Faults

BOS_TOKEN, EOS_TOKEN = "<|begin|>", "<|end|>"
BOS_ID, EOS_ID = 256, 257
VOCAB_SIZE = 258
"""256 bytes and two special tokens."""

EMBEDDING = "embed_tokens.weight"

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
    nan_token_id: int | None = None,
    faults: Faults | None = None,
    **options: Unpack[LoadOptions],
) -> Model:
    """Make a small Llama with random weights.

    Args:
        seed: Of the weights.
        max_position_embeddings: Longest sequence in tokens.
        num_layers: Layers.
        with_tokenizer: ``False``: a checkpoint without a tokenizer, for token ids only.
        nan_token_id: A token whose embedding is not a number, and so are the logits of every
            sequence that holds it.
        faults: What is to go wrong.
        **options: As for ``Model.from_pretrained``, but those for files; ``threads`` is 1 unless
            given.

    Raises:
        RequestError: An option is invalid; ``field`` names it.
    """
    check_keywords(options, LoadOptions.__annotations__)
    settings: dict[str, Any] = dict(options)
    checkpoint = tiny_checkpoint(
        seed=seed,
        max_position_embeddings=max_position_embeddings,
        num_layers=num_layers,
        chat_template=settings.pop("chat_template", None),
        with_tokenizer=with_tokenizer,
        nan_token_id=nan_token_id,
        faults=faults,
    )
    stand_ins = StandIns() if faults is None else StandIns(wrap_executor=faults.executor)
    draft_model = settings.pop("draft_model", None)
    config = config_of(settings)
    with opened_draft_model(draft_model, config) as drafts:
        parts = assemble(checkpoint, config, stand_ins=stand_ins, draft_model=drafts)
    return Model(parts)


def tiny_checkpoint(  # each is independent of the others
    *,
    max_position_embeddings: int,
    num_layers: int,
    chat_template: object,
    name: str = "tiny",
    seed: int = 0,
    with_tokenizer: bool = True,
    nan_token_id: int | None = None,
    faults: Faults | None = None,
) -> Checkpoint:
    """Describe what ``tiny_model`` runs; the arguments are its."""
    source = CHAT_TEMPLATE if chat_template is None else text("chat_template", chat_template)
    spec = tiny_spec(num_layers=num_layers, max_position_embeddings=max_position_embeddings)
    program = record(spec)

    def load_weights(executor: WeightReceiver, _cache: Path | None) -> None:
        receiver = executor if faults is None else faults.receiver(executor)
        load_random_weights(receiver, program, seed, nan_token_id=nan_token_id)

    return Checkpoint(
        name=name,
        source=None,
        spec=spec,
        program=program,
        load_weights=load_weights,
        weight_bytes=4 * sum(int(np.prod(shape)) for shape in program.weights.values()),
        tokenizer=byte_tokenizer() if with_tokenizer else None,
        chat_template=ChatTemplate(source, {"bos_token": BOS_TOKEN}),
        chat_template_text=source,
        generation_config={},
        eos_token_ids=(EOS_ID,),
        hash_weights=lambda: f"random weights, seed {seed}, {num_layers} layers",
        read_weight=lambda name: _random_weights(program, seed, nan_token_id)[name],
    )


def _random_weights(
    program: Program, seed: int, nan_token_id: int | None
) -> dict[str, NDArray[np.float32]]:
    """All weights by name, as ``load_random_weights`` gives them."""
    receiver = _Keeper()
    load_random_weights(receiver, program, seed, nan_token_id=nan_token_id)
    return receiver.values


class _Keeper:
    """Receives weights and keeps them."""

    def __init__(self) -> None:
        self.values: dict[str, NDArray[np.float32]] = {}

    def load_vector(self, name: str, values: NDArray[np.float32]) -> None:
        self.values[name] = values

    load_array = load_vector


def config_of(options: Mapping[str, Any]) -> EngineConfig:
    """Check the options of a model that is made in code; it has one thread unless more are given.

    Raises:
        RequestError: An option is invalid; ``field`` names it.
    """
    return EngineConfig.in_memory({"threads": 1, **options})


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


def load_random_weights(
    executor: ArrayReceiver, program: Program, seed: int, *, nan_token_id: int | None = None
) -> None:
    """Give an executor every weight: norms of ones, biases of zeros, matrices of random numbers.

    They are scaled so that the logits spread enough for greedy decoding to be stable. The row of
    ``nan_token_id`` in the embedding is NaN.
    """
    generator = np.random.default_rng(seed)
    for name, shape in program.weights.items():
        if len(shape) > 1:
            scale = 3.0 if name == "lm_head.weight" else 1.0
            values = generator.standard_normal(shape, np.float32) * scale / np.sqrt(shape[-1])
            if name == EMBEDDING and nan_token_id is not None:
                values[nan_token_id] = np.nan
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
