"""Write a Llama in GGUF as a Hugging Face folder, dequantized to bfloat16, without torch.

For engines that read nothing else. There is no tokenizer in it: prompts are token ids.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .gguf_llama import Llama

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def write(source: str, folder: str) -> None:
    """Write the folder, whole or not at all.

    Raises:
        NotImplementedError: ``source`` is no Llama.
    """
    llama = Llama(source)
    parent = Path(folder).parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent))
    (temporary / "config.json").write_text(json.dumps(_config(llama)), encoding="utf8")
    _write_safetensors(temporary / "model.safetensors", dict(_tensors(llama)))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)  # noqa: PTH105


def _config(llama: Llama) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": llama.field("embedding_length"),
        "intermediate_size": llama.field("feed_forward_length"),
        "num_hidden_layers": llama.num_layers,
        "num_attention_heads": llama.num_heads,
        "num_key_value_heads": llama.num_kv_heads,
        "max_position_embeddings": llama.field("context_length"),
        "rms_norm_eps": llama.field("attention.layer_norm_rms_epsilon"),
        "rope_theta": llama.field("rope.freq_base"),
        "vocab_size": len(llama.tokens),
        "bos_token_id": llama.token_id("bos"),
        "eos_token_id": llama.token_id("eos"),
        "tie_word_embeddings": "output.weight" not in llama,
    }


def _tensors(llama: Llama) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield "model.embed_tokens.weight", llama["token_embd.weight"]
    yield "model.norm.weight", llama["output_norm.weight"]
    if "output.weight" in llama:
        yield "lm_head.weight", llama["output.weight"]
    heads = {"q": llama.num_heads, "k": llama.num_kv_heads}
    for index in range(llama.num_layers):
        ours, theirs = f"blk.{index}", f"model.layers.{index}"
        for name in "qkv":
            weight = llama[f"{ours}.attn_{name}.weight"]
            if name in heads:
                weight = _rotate_halves(weight, heads[name])
            yield f"{theirs}.self_attn.{name}_proj.weight", weight
        yield f"{theirs}.self_attn.o_proj.weight", llama[f"{ours}.attn_output.weight"]
        yield f"{theirs}.input_layernorm.weight", llama[f"{ours}.attn_norm.weight"]
        yield f"{theirs}.post_attention_layernorm.weight", llama[f"{ours}.ffn_norm.weight"]
        for name in ("gate", "up", "down"):
            yield f"{theirs}.mlp.{name}_proj.weight", llama[f"{ours}.ffn_{name}.weight"]


def _rotate_halves(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """GGUF orders a head's rows for pairs side by side; here pairs are half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _write_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    header: dict[str, object] = {}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + 2 * values.size
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for values in tensors.values():
            file.write(bfloat16_bits(values).tobytes())


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
