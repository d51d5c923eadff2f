"""Convert a Llama in GGUF into CTranslate2's own format, without torch.

CTranslate2 quantizes again, to int8 with one scale per row, so its weights are not the file's.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gguf import GGUFReader
    from numpy.typing import NDArray


def convert(source: str, folder: str) -> None:
    """Write the model into ``folder``, whole or not at all.

    Raises:
        NotImplementedError: ``source`` is no Llama.
    """
    import ctranslate2
    from gguf import GGUFReader

    reader = GGUFReader(source)
    if _field(reader, "general.architecture") != "llama":
        raise NotImplementedError("only Llama's layout is converted here; needs a checkpoint")
    specs = ctranslate2.specs
    num_layers = _field(reader, "llama.block_count")
    spec = specs.TransformerDecoderModelSpec.from_config(
        num_layers,
        _field(reader, "llama.attention.head_count"),
        activation=specs.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=True,  # GGUF's order of Q's and K's rows
        rotary_base=_field(reader, "llama.rope.freq_base"),
        num_heads_kv=_field(reader, "llama.attention.head_count_kv"),
    )
    _fill(spec, _Tensors(reader), num_layers)
    tokens = _field(reader, "tokenizer.ggml.tokens")
    spec.register_vocabulary(tokens)
    spec.config.layer_norm_epsilon = _field(reader, "llama.attention.layer_norm_rms_epsilon")
    spec.config.bos_token = tokens[_field(reader, "tokenizer.ggml.bos_token_id")]
    spec.config.eos_token = tokens[_field(reader, "tokenizer.ggml.eos_token_id")]
    spec.config.unk_token = "<|endoftext|>"
    spec.validate()
    spec.optimize(quantization="int8")
    parent = Path(folder).parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent)
    spec.save(temporary)
    (Path(temporary) / "vocabulary.json").write_text(json.dumps(tokens), encoding="utf8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)  # noqa: PTH105


class _Tensors:
    """Dequantized tensors by name."""

    def __init__(self, reader: GGUFReader) -> None:
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        from gguf import dequantize

        tensor = self._tensors[name]
        return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)


def _fill(spec: Any, tensors: _Tensors, num_layers: int) -> None:
    """Put every weight where CTranslate2 wants it."""
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["token_embd.weight"]
    decoder.layer_norm.gamma = tensors["output_norm.weight"]
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    decoder.projection.weight = tensors[head]
    for index in range(num_layers):
        layer, prefix = decoder.layer[index], f"blk.{index}"
        attention, ffn = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = tensors[f"{prefix}.attn_norm.weight"]
        attention.linear[0].weight = np.concatenate(
            [tensors[f"{prefix}.attn_{name}.weight"] for name in "qkv"]
        )
        attention.linear[1].weight = tensors[f"{prefix}.attn_output.weight"]
        ffn.layer_norm.gamma = tensors[f"{prefix}.ffn_norm.weight"]
        ffn.linear_0.weight = tensors[f"{prefix}.ffn_gate.weight"]
        ffn.linear_0_noact.weight = tensors[f"{prefix}.ffn_up.weight"]
        ffn.linear_1.weight = tensors[f"{prefix}.ffn_down.weight"]


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise NotImplementedError(f"the file has no {name}")
    return field.contents()
