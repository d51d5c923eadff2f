"""BERT: an encoder with learned positions, segments, and norms behind each branch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UnsupportedModelError
from ..model_spec import AttentionSpec, ClassifierSpec, LayerSpec, MlpSpec, ModelSpec
from .architecture import Architecture
from .decoder_config import activation_from_config, num_layers_from_config
from .tensor_names import HUGGING_FACE, Part, RowsFrom, weight_map

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Never

    from .architecture import GgufHeader
    from .fields import Fields
    from .tensor_names import WeightMap

_MOST_LABELS = 100_000


def bert_from_config(config: Fields) -> ModelSpec:
    """BERT; with a classifier if the configuration names such a class."""
    classes = config.texts("architectures")
    scores = any(name.endswith("ForSequenceClassification") for name in classes)
    return encoder_from_config(
        config, "bert", classifier=classifier_from_config(config) if scores else None
    )


def encoder_from_config(
    config: Fields,
    architecture: str,
    *,
    classifier: ClassifierSpec | None,
    first_position: int = 0,
) -> ModelSpec:
    """An encoder with BERT's layers.

    Args:
        config: ``config.json``.
        architecture: The family's name.
        classifier: Scores of whole sequences.
        first_position: The row of the table of positions that a sequence begins with.

    Raises:
        UnsupportedModelError: Positions are relative, or it is used as a decoder.
    """
    kind = config.text("position_embedding_type", default="absolute")
    if kind != "absolute":
        raise UnsupportedModelError(f"{config.source} asks for positions that are {kind!r}")
    if config.flag("is_decoder", default=False):
        raise UnsupportedModelError(f"{config.source} describes a decoder with encoder's layers")
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    if hidden_size % num_heads:
        expected = f"a divisor of the hidden_size {hidden_size}"
        raise config.invalid("num_attention_heads", expected, num_heads)
    head_dim = hidden_size // num_heads
    attention = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=None,
        qkv_bias=True,
        o_bias=True,
        bidirectional=True,
    )
    mlp = MlpSpec(
        intermediate_size=config.size("intermediate_size"),
        activation=activation_from_config(config, "hidden_act"),
        gated=False,
        bias=True,
    )
    layer = LayerSpec(attention=attention, mlp=mlp, pre_norm=False, norm_after=True)
    positions = config.size("max_position_embeddings") - first_position
    if positions < 1:
        expected = f"more than the {first_position} rows of padding"
        raise config.invalid("max_position_embeddings", expected, positions + first_position)
    return ModelSpec(
        architecture=architecture,
        vocab_size=config.size("vocab_size"),
        hidden_size=hidden_size,
        layers=(layer,) * num_layers_from_config(config),
        norm="layer",
        norm_eps=config.positive("layer_norm_eps", default=1e-12),
        max_position_embeddings=positions,
        learned_positions=positions,
        first_position=first_position,
        segments=config.size("type_vocab_size", default=2),
        embedding_norm=True,
        final_norm=False,
        lm_head=False,
        classifier=classifier,
    )


def classifier_from_config(config: Fields) -> ClassifierSpec:
    """Labels and their kind; a lone label is true or false."""
    labels = _labels(config)
    kind = config.text("problem_type", default="single_label_classification")
    if kind not in ("single_label_classification", "multi_label_classification", "regression"):
        raise config.invalid("problem_type", "a known kind of classification", kind)
    several = kind == "multi_label_classification" or len(labels) == 1
    return ClassifierSpec(labels=labels, several=several)


def _labels(config: Fields) -> tuple[str, ...]:
    section = config.section("id2label")
    if section is None:  # transformers leaves out what is usual
        count = config.size("num_labels", default=2)
        if count > _MOST_LABELS:
            raise config.invalid("num_labels", f"at most {_MOST_LABELS}", count)
        return tuple(f"LABEL_{index}" for index in range(count))
    names = section.values
    labels = tuple(names.get(str(index)) for index in range(len(names)))
    if not labels or not all(isinstance(label, str) for label in labels):
        raise config.invalid("id2label", "names of the labels 0, 1, …", dict(names))
    return labels  # type: ignore[return-value]  # just checked


def encoder_weights(
    spec: ModelSpec,
    tensors: Collection[str],
    *,
    prefix: str,
    classifier: tuple[str, str],
) -> WeightMap:
    """Canonical weights of an encoder.

    Args:
        spec: Gives the sizes.
        tensors: Names in the checkpoint.
        prefix: Before the encoder's names where a head is beside it.
        classifier: Names of the classifier's two linears.
    """
    own = prefix if f"{prefix}embeddings.word_embeddings.weight" in tensors else ""
    names = replace(
        HUGGING_FACE,
        embed_tokens=f"{own}embeddings.word_embeddings",
        layer=f"{own}encoder.layer.{{}}.",
        attn_norm="attention.output.LayerNorm",
        qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
        o_proj="attention.output.dense",
        mlp_norm="output.LayerNorm",
        up_proj="intermediate.dense",
        down_proj="output.dense",
    )
    hidden_size, positions = spec.hidden_size, spec.max_position_embeddings
    first_position = spec.first_position
    weights = weight_map(spec, names)
    weights["position_embedding.weight"] = (
        Part(
            f"{own}embeddings.position_embeddings.weight",
            positions,
            RowsFrom(first=first_position, count=positions),
            shape=(first_position + positions, hidden_size),
        ),
    )
    segments = f"{own}embeddings.token_type_embeddings.weight"
    weights["segment_embedding.weight"] = (Part(segments, spec.segments or 0),)
    linears = {"embedding_norm": (f"{own}embeddings.LayerNorm", hidden_size)}
    if spec.classifier is not None:
        dense, out = classifier
        linears["classifier.dense"] = (dense, hidden_size)
        linears["classifier.out"] = (out, len(spec.classifier.labels))
    for canonical, (tensor, rows) in linears.items():
        weights[f"{canonical}.weight"] = (Part(f"{tensor}.weight", rows),)
        weights[f"{canonical}.bias"] = (Part(f"{tensor}.bias", rows),)
    return weights


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return encoder_weights(
        spec, tensors, prefix="bert.", classifier=("bert.pooler.dense", "classifier")
    )


def not_from_gguf(*_: GgufHeader | ModelSpec) -> Never:
    """Encoders have no name in GGUF here: nobody calls this."""
    raise AssertionError("an architecture without GGUF names")


BERT = Architecture(
    name="bert",
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    model_types=("bert",),
    gguf_names=(),
    spec_from_config=bert_from_config,
    spec_from_gguf=not_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=not_from_gguf,
    ignored=("pooler.", "bert.pooler.", "cls."),
    ignored_endings=("embeddings.position_ids",),
)
