"""RoBERTa and XLM-RoBERTa: BERT's layers; positions begin behind the padding token's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architecture import Architecture
from .bert import classifier_from_config, encoder_from_config, encoder_weights, not_from_gguf

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..model_spec import ModelSpec
    from .fields import Fields
    from .tensor_names import WeightMap


def roberta_from_config(config: Fields) -> ModelSpec:
    """RoBERTa; with a classifier if the configuration names such a class."""
    classes = config.texts("architectures")
    scores = any(name.endswith("ForSequenceClassification") for name in classes)
    return encoder_from_config(
        config,
        "roberta",
        classifier=classifier_from_config(config) if scores else None,
        first_position=_first_position(config),
    )


def _first_position(config: Fields) -> int:
    """Positions are counted from one behind ``pad_token_id``, 1 unless it says otherwise."""
    pad = config.token_ids("pad_token_id")
    return (pad[0] if pad else 1) + 1


def _weights_from_safetensors(spec: ModelSpec, tensors: Collection[str]) -> WeightMap:
    return encoder_weights(
        spec,
        tensors,
        prefix="roberta.",
        classifier=("classifier.dense", "classifier.out_proj"),
    )


ROBERTA = Architecture(
    name="roberta",
    classes=tuple(
        f"{family}{head}"
        for family in ("Roberta", "XLMRoberta")
        for head in ("Model", "ForMaskedLM", "ForSequenceClassification")
    ),
    model_types=("roberta", "xlm-roberta"),
    gguf_names=(),
    spec_from_config=roberta_from_config,
    spec_from_gguf=not_from_gguf,
    weights_from_safetensors=_weights_from_safetensors,
    weights_from_gguf=not_from_gguf,
    ignored=("pooler.", "roberta.pooler.", "lm_head."),
    ignored_endings=("embeddings.position_ids",),
)
