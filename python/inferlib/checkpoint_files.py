"""The small files of a checkpoint: JSON, tokenizer, chat templates; and the same out of GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from .errors import ModelFormatError
from .word_piece import word_piece_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ._core import Weights

_MOST_JSON_BYTES = 64 * 2**20
_MOST_TOKENIZER_BYTES = 512 * 2**20
_DEFAULT_TEMPLATE = "default"
_TOOL_TEMPLATE = "tool_use"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
_GGUF_TOKENS = "tokenizer.ggml.tokens"
_GGUF_ROLES = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """What a checkpoint says about text.

    Attributes:
        tokenizer_json: ``tokenizer.json``.
        tokenizer_config: ``tokenizer_config.json``.
        gguf_vocabulary: The file whose metadata hold the vocabulary.
        chat_templates: Source by name; most models have one, ``default``.
        special_tokens: ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``, as far as
            there are any.
    """

    tokenizer_json: bytes | None = None
    tokenizer_config: bytes | None = None
    gguf_vocabulary: Weights | None = None
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_tokenizer(self) -> bool:
        """Whether text can be turned into tokens."""
        return self.tokenizer_json is not None or self.gguf_vocabulary is not None

    @property
    def chat_template(self) -> str | None:
        """The template that is used unless another is asked for."""
        if _DEFAULT_TEMPLATE in self.chat_templates or len(self.chat_templates) != 1:
            return self.chat_templates.get(_DEFAULT_TEMPLATE)
        return next(iter(self.chat_templates.values()))

    @property
    def tool_chat_template(self) -> str | None:
        """The template for conversations with tools, if that is one of its own."""
        return self.chat_templates.get(_TOOL_TEMPLATE)


def read_json(path: Path) -> dict[str, object]:
    """A JSON file that holds an object.

    Raises:
        ModelFormatError: It cannot be read, is too large, is no JSON or no object.
    """
    return _parse(_read(path, _MOST_JSON_BYTES), path)


def read_json_list(path: Path) -> list[dict[str, object]]:
    """A JSON file that holds a list of objects.

    Raises:
        ModelFormatError: It cannot be read, is too large, is no JSON or no such list.
    """
    value = _value(_read(path, _MOST_JSON_BYTES), path)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ModelFormatError(f"{path} must hold a list of JSON objects")
    return value


def read_optional_json(path: Path) -> dict[str, object]:
    """The same; empty if there is no such file."""
    return read_json(path) if path.is_file() else {}


def text_of_folder(folder: Path) -> TextFiles:
    """Tokenizer and templates of a Hugging Face checkpoint.

    Of several templates ``chat_template.jinja`` wins, then ``tokenizer_config.json``, then
    ``chat_template.json``.
    """
    config_path = folder / "tokenizer_config.json"
    config_bytes = _read_optional(config_path, _MOST_JSON_BYTES)
    config = {} if config_bytes is None else _parse(config_bytes, config_path)
    templates = _templates(read_optional_json(folder / "chat_template.json"), folder)
    templates |= _templates(config, config_path)
    jinja = _read_optional(folder / "chat_template.jinja", _MOST_JSON_BYTES)
    if jinja is not None:
        templates[_DEFAULT_TEMPLATE] = _decode(jinja, folder / "chat_template.jinja")
    tokenizer_json = _read_optional(folder / "tokenizer.json", _MOST_TOKENIZER_BYTES)
    words = _read_optional(folder / "vocab.txt", _MOST_TOKENIZER_BYTES)
    if tokenizer_json is None and words is not None:
        tokenizer_json = word_piece_json(_decode(words, folder / "vocab.txt"), config)
    return TextFiles(
        tokenizer_json=tokenizer_json,
        tokenizer_config=config_bytes,
        chat_templates=templates,
        special_tokens=_special_tokens(config, config_path),
    )


def text_of_gguf(weights: Weights) -> TextFiles:
    """Vocabulary and templates of a GGUF file."""
    metadata = weights.metadata()
    source = weights.files[0]
    if "tokenizer.ggml.model" not in metadata:
        return TextFiles()
    num_tokens = weights.metadata_length(_GGUF_TOKENS)
    if num_tokens is None:
        raise ModelFormatError(f"{source} has no list {_GGUF_TOKENS!r}")
    special_tokens = {}
    for role, key in _GGUF_ROLES.items():
        token_id = metadata.get(key)
        if token_id is None:
            continue
        token = None
        if isinstance(token_id, int) and 0 <= token_id < num_tokens:
            token = weights.metadata_string(_GGUF_TOKENS, token_id)
        if token is None:
            raise ModelFormatError(
                f"{key!r} of {source} must be one of the {num_tokens} tokens, not {token_id!r}"
            )
        special_tokens[role] = token
    prefix = "tokenizer.chat_template"
    templates = {
        key.removeprefix(prefix).removeprefix(".") or _DEFAULT_TEMPLATE: value
        for key, value in metadata.items()
        if (key == prefix or key.startswith(f"{prefix}.")) and isinstance(value, str)
    }
    return TextFiles(
        gguf_vocabulary=weights, chat_templates=templates, special_tokens=special_tokens
    )


def _templates(config: Mapping[str, object], path: Path) -> dict[str, str]:
    """``chat_template``: one source, or a list of sources with names."""
    value = config.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {_DEFAULT_TEMPLATE: value}
    templates = {}
    for item in value if isinstance(value, list) else [value]:
        name = item.get("name") if isinstance(item, dict) else None
        template = item.get("template") if isinstance(item, dict) else None
        if not isinstance(name, str) or not isinstance(template, str):
            raise ModelFormatError(
                f"'chat_template' of {path} must be a string or a list of names and templates"
            )
        templates[name] = template
    return templates


def _special_tokens(config: Mapping[str, object], path: Path) -> dict[str, str]:
    """Tokens with a role, as strings or as added tokens."""
    tokens = {}
    for role in _ROLES:
        value = config.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        if value is None:
            continue
        if not isinstance(value, str):
            raise ModelFormatError(f"{role!r} of {path} must be a string, not {value!r}")
        tokens[role] = value
    return tokens


def _read_optional(path: Path, most_bytes: int) -> bytes | None:
    return _read(path, most_bytes) if path.is_file() else None


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise ModelFormatError(f"{path} has {size:,} bytes; at most {most_bytes:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror or error}") from error


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{path} is not UTF-8: {error}") from None


def _parse(data: bytes, path: Path) -> dict[str, object]:
    value = _value(data, path)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _value(data: bytes, path: Path) -> object:
    text = _decode(data, path)
    if text.startswith("version https://git-lfs"):
        raise ModelFormatError(
            f"{path} is a Git LFS pointer, not the file", hint="run `git lfs pull` in that folder"
        )
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelFormatError(f"{path} is not valid JSON: {problem}") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is no JSON number"
    raise ValueError(message)
