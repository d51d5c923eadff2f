"""Sequences in files: tokens, keys and values as safetensors, with a fingerprint of the model.

What a file must look like follows from the model and the number of tokens; a file is read only if
its header is exactly that. So nothing of a header is believed, and nothing is allocated for it.

Tensors, little-endian, in this order and without gaps: ``token_ids`` I32 ``[num_tokens]``; for
each KV group ``kv.<i>.k`` and ``.v`` ``[num_layers, num_computed, num_kv_heads, head_dim]`` of the
KV type, and for int8 ``.k_scales`` and ``.v_scales`` BF16
``[num_layers, num_computed, num_kv_heads]``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .errors import SequenceFileError, SequenceMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from .sequence_bytes import ByteArrays

FORMAT, VERSION = "inferlib-sequence", "1"
MOST_HEADER_BYTES = 1 << 20
_LENGTH_BYTES = 8
_DTYPES = {"f16": ("F16", 2), "bf16": ("BF16", 2), "int8": ("I8", 1), "f32": ("F32", 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """Shape of one KV group's keys and values.

    Attributes:
        num_layers: Layers of the group.
        num_kv_heads: Heads of keys and values.
        k_head_dim: Width of a key.
        v_head_dim: Width of a value.
    """

    num_layers: int
    num_kv_heads: int
    k_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLayout:
    """What files of one model look like.

    Attributes:
        fingerprint: What keys and values depend on.
        groups: Of the model.
        max_tokens: Most tokens of a sequence.
        vocab_size: Token ids are below this.
    """

    fingerprint: Mapping[str, str]
    groups: Sequence[KvShape]
    max_tokens: int
    vocab_size: int

    def num_computed(self, k_bytes: int) -> int:
        """Count the tokens in the first group's keys."""
        group = self.groups[0]
        _, element = _DTYPES[self.fingerprint["kv_cache_dtype"]]
        return k_bytes // (group.num_layers * group.num_kv_heads * group.k_head_dim * element)

    def tensors(self, num_tokens: int, num_computed: int) -> Iterable[tuple[str, str, list[int]]]:
        """Return name, type and shape of every tensor, in the order of the file."""
        dtype, _ = _DTYPES[self.fingerprint["kv_cache_dtype"]]
        yield "token_ids", "I32", [num_tokens]
        for index, group in enumerate(self.groups):
            rows = [group.num_layers, num_computed, group.num_kv_heads]
            yield f"kv.{index}.k", dtype, [*rows, group.k_head_dim]
            yield f"kv.{index}.v", dtype, [*rows, group.v_head_dim]
            if dtype == "I8":
                yield f"kv.{index}.k_scales", "BF16", rows
                yield f"kv.{index}.v_scales", "BF16", rows

    def entries(self, num_tokens: int, num_computed: int) -> dict[str, dict[str, Any]]:
        """Return the header without its metadata."""
        sizes = {"I32": 4, "F32": 4, "F16": 2, "BF16": 2, "I8": 1}
        header: dict[str, dict[str, Any]] = {}
        offset = 0
        for name, dtype, shape in self.tensors(num_tokens, num_computed):
            end = offset + sizes[dtype] * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        return header


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSequence:
    """What a file holds.

    Attributes:
        token_ids: ``[num_tokens]`` int32.
        num_computed: Tokens that have keys and values.
        groups: Of each KV group the bytes of K, V and their scales.
    """

    token_ids: NDArray[np.int32]
    num_computed: int
    groups: list[ByteArrays]


def write_sequence(
    path: str | os.PathLike[str], layout: SequenceLayout, sequence: StoredSequence
) -> None:
    """Write a file; it appears under its name once it is complete.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    pieces = [np.ascontiguousarray(sequence.token_ids, "<i4").view(np.uint8)]
    pieces += [array for group in sequence.groups for array in group if array.size]
    header = layout.entries(len(sequence.token_ids), sequence.num_computed)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        **layout.fingerprint,
        "num_computed": str(sequence.num_computed),
        "digest": _digest(pieces),
    }
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
            file.write(text)
            for piece in pieces:
                file.write(piece.data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_sequence(path: str | os.PathLike[str], layout: SequenceLayout) -> StoredSequence:
    """Read a file that ``write_sequence`` wrote for an equal layout.

    Raises:
        OSError: It cannot be read.
        SequenceMismatchError: It was written by another model; ``field`` says what differs.
        SequenceFileError: It is no such file, damaged, or holds more tokens than the model may.
    """
    name = os.fspath(path)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start, header, metadata = _read_header(file, size, name)
        _check_fingerprint(metadata, layout, name)
        num_tokens, num_computed = _counts(header, metadata)
        if not 0 < num_tokens <= layout.max_tokens:
            most = layout.max_tokens
            raise _refusal(name, f"it holds {num_tokens:,} tokens; this model takes {most:,}")
        if not 0 <= num_computed <= num_tokens:
            raise _refusal(name, "it holds keys and values of tokens that it does not hold")
        expected = layout.entries(num_tokens, num_computed)
        if header != expected:
            raise _refusal(name, "its tensors are not those of a sequence of this model")
        sizes = [entry["data_offsets"][1] - entry["data_offsets"][0] for entry in expected.values()]
        if size != start + sum(sizes):
            raise _refusal(name, "it is truncated, or something follows its last tensor")
        pieces = [np.frombuffer(file.read(count), np.uint8) for count in sizes]
    if [piece.size for piece in pieces] != sizes or _digest(pieces) != metadata.get("digest"):
        raise _refusal(name, "it is damaged: its contents are not what was written")
    token_ids = pieces[0].view("<i4").astype(np.int32)
    if token_ids.min() < 0 or token_ids.max() >= layout.vocab_size:
        raise _refusal(name, "it holds token ids that this model does not have")
    none = np.empty(0, np.uint8)
    per_group = 4 if layout.fingerprint["kv_cache_dtype"] == "int8" else 2
    groups: list[ByteArrays] = []
    for start in range(1, len(pieces), per_group):
        k, v, *scales = pieces[start : start + per_group]
        groups.append((k, v, scales[0], scales[1]) if scales else (k, v, none, none))
    return StoredSequence(token_ids=token_ids, num_computed=num_computed, groups=groups)


def _read_header(
    file: IO[bytes], size: int, path: str
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Where the data begins; the header without its metadata; and these."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    try:
        is_header = length <= min(MOST_HEADER_BYTES, size - _LENGTH_BYTES)
        header = json.loads(file.read(length if is_header else 0))
        metadata = header.pop("__metadata__")
        is_ours = metadata["format"] == FORMAT
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refusal(path, "this is no file of a sequence") from error
    if not is_ours:
        raise _refusal(path, "this is no file of a sequence")
    return _LENGTH_BYTES + length, header, metadata


def _refusal(path: str, problem: str) -> SequenceFileError:
    return SequenceFileError(f"{path}: {problem}", path=path)


def _check_fingerprint(metadata: Mapping[str, Any], layout: SequenceLayout, path: str) -> None:
    expected = {"version": VERSION, **layout.fingerprint}
    for field, value in expected.items():
        found = metadata.get(field)
        if found != value:
            raise SequenceMismatchError(
                f"{path}: {field} is {found!r} there and {value!r} here",
                path=path,
                field=field,
                expected=value,
                found=str(found),
                hint="prefill the tokens again: keys and values of another model mean nothing here",
            )


def _counts(header: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[int, int]:
    """Claimed numbers of tokens and of computed ones; 0 and -1 if they are none."""
    try:
        (num_tokens,) = header["token_ids"]["shape"]
        text = metadata["num_computed"]
        num_computed = int(text) if len(text) < 12 else -1
    except (KeyError, TypeError, ValueError, IndexError):
        return 0, 0
    return (num_tokens if type(num_tokens) is int else 0), num_computed


def _digest(pieces: Iterable[NDArray[np.uint8]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()
