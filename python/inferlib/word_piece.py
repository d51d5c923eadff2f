"""BERT's ``vocab.txt`` as the ``tokenizer.json`` that newer checkpoints have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .errors import ModelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def word_piece_json(vocab: str, config: Mapping[str, object]) -> bytes:
    """Write a WordPiece vocabulary as ``tokenizer.json``.

    Args:
        vocab: One token per line; the line's number is its id.
        config: ``tokenizer_config.json``: names of special tokens, lower case or not.

    Raises:
        ModelFormatError: A special token is not in the vocabulary.

    Source: transformers' ``BertTokenizer``: texts are normalised, parted at spaces and punctuation,
    and each word is cut into the longest pieces that there are.
    """
    ids = {token: index for index, token in enumerate(vocab.removesuffix("\n").split("\n"))}
    names = {}
    for role, usual in _ROLES.items():
        given = config.get(role)
        if isinstance(given, dict):
            given = given.get("content")
        names[role] = given if isinstance(given, str) else usual
        if names[role] not in ids:
            raise ModelFormatError(f"vocab.txt has no {role}, {names[role]!r}")
    cls, sep = names["cls_token"], names["sep_token"]

    def token(name: str, segment: int) -> dict[str, object]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, object]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [token(cls, 0), text("A", 0), token(sep, 0)]
    lower = config.get("do_lower_case", True)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": ids[name],
                "content": name,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for name in sorted(set(names.values()), key=ids.__getitem__)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, text("B", 1), token(sep, 1)],
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (cls, sep)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": names["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }
    return json.dumps(tokenizer).encode()
