"""Convert a Llama in GGUF into CTranslate2's own format, without torch.

CTranslate2 quantizes again, to int8 with one scale per row, so its weights are not the file's.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .gguf_llama import Llama


def convert(source: str, folder: str) -> None:
    """Write the model into ``folder``, whole or not at all.

    Raises:
        NotImplementedError: ``source`` is no Llama.
    """
    import ctranslate2

    llama = Llama(source)
    specs = ctranslate2.specs
    spec = specs.TransformerDecoderModelSpec.from_config(
        llama.num_layers,
        llama.num_heads,
        activation=specs.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=True,  # GGUF's order of Q's and K's rows
        rotary_base=llama.field("rope.freq_base"),
        num_heads_kv=llama.num_kv_heads,
    )
    _fill(spec.decoder, llama)
    spec.register_vocabulary(llama.tokens)
    spec.config.layer_norm_epsilon = llama.field("attention.layer_norm_rms_epsilon")
    spec.config.bos_token = llama.tokens[llama.token_id("bos")]
    spec.config.eos_token = llama.tokens[llama.token_id("eos")]
    spec.config.unk_token = spec.config.eos_token
    spec.validate()
    spec.optimize(quantization="int8")
    parent = Path(folder).parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent)
    spec.save(temporary)
    (Path(temporary) / "vocabulary.json").write_text(json.dumps(llama.tokens), encoding="utf8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)  # noqa: PTH105


def _fill(decoder: Any, llama: Llama) -> None:
    """Put every weight where CTranslate2 wants it."""
    decoder.scale_embeddings = False
    decoder.embeddings.weight = llama["token_embd.weight"]
    decoder.layer_norm.gamma = llama["output_norm.weight"]
    head = "output.weight" if "output.weight" in llama else "token_embd.weight"
    decoder.projection.weight = llama[head]
    for index, layer in enumerate(decoder.layer):
        prefix = f"blk.{index}"
        attention, ffn = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = llama[f"{prefix}.attn_norm.weight"]
        attention.linear[0].weight = np.concatenate(
            [llama[f"{prefix}.attn_{name}.weight"] for name in "qkv"]
        )
        attention.linear[1].weight = llama[f"{prefix}.attn_output.weight"]
        ffn.layer_norm.gamma = llama[f"{prefix}.ffn_norm.weight"]
        ffn.linear_0.weight = llama[f"{prefix}.ffn_gate.weight"]
        ffn.linear_0_noact.weight = llama[f"{prefix}.ffn_up.weight"]
        ffn.linear_1.weight = llama[f"{prefix}.ffn_down.weight"]
