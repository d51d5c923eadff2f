"""Tokenizers for tests: SmolLM2's from its committed vocabulary, others from model files."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import GGUFWriter

from inferlib import _core

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = Path(__file__).parent / "golden" / "data" / "text"


def write_gguf_vocabulary(path: Path, tokens: Sequence[str], **keys: Any) -> None:
    """Write a GGUF file without tensors: tokens and whatever else of ``tokenizer.ggml.*``."""
    writer = GGUFWriter(path, "llama")
    writer.add_token_list(list(tokens))
    for key, value in keys.items():
        add = {
            str: writer.add_string,
            bool: writer.add_bool,
            int: writer.add_uint32,
            list: writer.add_array,
        }[type(value)]
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def smollm2(folder: Path) -> Any:
    """SmolLM2's tokenizer, from its vocabulary in ``golden/data/text``."""
    vocabulary = json.loads(lzma.decompress((TEXT / "smollm2_vocabulary.json.xz").read_bytes()))
    tokens, num_control = vocabulary["tokens"], vocabulary["num_control_tokens"]
    left = vocabulary["left"]
    # Merging makes the last tokens, in their order; ``left`` says where each is cut.
    made = tokens[len(tokens) - len(left) :]
    write_gguf_vocabulary(
        folder / "smollm2.gguf",
        tokens,
        model="gpt2",
        pre="smollm",
        token_type=[3] * num_control + [1] * (len(tokens) - num_control),
        merges=[f"{token[:cut]} {token[cut:]}" for token, cut in zip(made, left, strict=True)],
        bos_token_id=1,
        eos_token_id=2,
        unknown_token_id=0,
        padding_token_id=2,
        add_bos_token=False,
    )
    return _core.Tokenizer.from_gguf(_core.Weights.open(folder / "smollm2.gguf"))
