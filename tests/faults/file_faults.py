"""Faults of files: another model cannot be loaded, and the one that runs does not notice."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from tests.checkpoints import TINY
from tests.faults.catalogue import OPTIONS, Stage, fault
from tests.gguf_checkpoints import write_gguf

import inferlib
from inferlib import Model
from inferlib.testing import byte_tokenizer_files, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 123456\n"
HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


def checkpoint(folder: Path) -> Path:
    """A copy of a small checkpoint, to be damaged."""
    shutil.copytree(TINY / "llama", folder / "model")
    (folder / "model" / "reference.npz").unlink()
    return folder / "model"


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(path: Path, header: dict[str, Any], tensors: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


def damaged(
    name: str,
    error: str,
    damage: Callable[[Path], Path | None],
    says: str = "",
) -> None:
    """Put a checkpoint into the table that ``damage`` makes unusable; it returns what to open."""

    def play(stage: Stage) -> None:
        model = checkpoint(stage.folder)
        path = damage(model) or model
        for mmap in (True, False):
            raised = stage.refused(
                getattr(inferlib, error), lambda mmap=mmap: Model.from_pretrained(path, mmap=mmap)
            )
            assert says in str(raised), raised

    fault("file", name, f"`{error}`")(play)


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        path = model / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def config(**changes: object) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        path = model / "config.json"
        values = json.loads(path.read_text(encoding="utf8")) | changes
        path.write_text(json.dumps(values), encoding="utf8")

    return damage


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (model / name).write_bytes(data)

    return damage


def tensors_that_overlap(model: Path) -> None:
    path = model / "model.safetensors"
    header, data = header_of(path)
    names = [name for name in header if name != "__metadata__"]
    same = [name for name in names if header[name]["shape"] == header[names[0]]["shape"]]
    header[same[1]]["data_offsets"] = header[same[0]]["data_offsets"]
    write_header(path, header, data)


def a_shape_beyond_64_bits(model: Path) -> None:
    path = model / "model.safetensors"
    header, data = header_of(path)
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"] = [2**40, 2**40]
    write_header(path, header, data)


def an_index_that_leaves_the_folder(model: Path) -> None:
    shutil.move(model / "model.safetensors", model.parent / "secret.safetensors")
    header, _ = header_of(model.parent / "secret.safetensors")
    files = {name: "../secret.safetensors" for name in header if name != "__metadata__"}
    text("model.safetensors.index.json", json.dumps({"weight_map": files}))(model)


def a_missing_shard(model: Path) -> None:
    header, _ = header_of(model / "model.safetensors")
    files = {name: "model-00002-of-00002.safetensors" for name in header if name != "__metadata__"}
    (model / "model.safetensors").unlink()
    text("model.safetensors.index.json", json.dumps({"weight_map": files}))(model)


def pickles_only(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"PK\x03\x04 a pickle")


def symlinks_in_a_circle(model: Path) -> Path:
    (model / "a").symlink_to(model / "b")
    (model / "b").symlink_to(model / "a")
    return model / "a"


def a_gguf(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def damage(model: Path) -> Path:
        path = model / "model.gguf"
        write_gguf("llama", path)
        path.write_bytes(change(path.read_bytes()))
        return path

    return damage


def a_tokenizer(**stages: Any) -> Callable[[Path], None]:
    tokenizer = json.loads(byte_tokenizer_files()[0])
    return text("tokenizer.json", json.dumps(tokenizer | stages))


TWO_FOR_ONE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TWICE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
    "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
    "special_tokens": {},
}

damaged("a path that does not exist", "ModelNotFoundError", lambda model: model / "nothing")
damaged("an empty folder", "ModelNotFoundError", lambda model: (model / "x").mkdir() or model / "x")
damaged("symbolic links in a circle", "ModelReadError", symlinks_in_a_circle)
damaged("an empty file of weights", "ModelFormatError", weights(lambda _: b""))
damaged("weights cut off in the middle", "ModelFormatError", weights(lambda data: data[:-1000]))
damaged("weights with a tail", "ModelFormatError", weights(lambda data: data + b"\0" * 99))
damaged("a header longer than its file", "ModelFormatError", weights(lambda d: b"\xff" * 8 + d[8:]))
damaged("a web page in place of weights", "ModelFormatError", weights(lambda _: HTML), "HTML")
damaged(
    "a Git LFS pointer in place of weights",
    "ModelFormatError",
    weights(lambda _: LFS_POINTER),
    "LFS",
)
damaged("tensors that overlap", "ModelFormatError", tensors_that_overlap)
damaged("a shape beyond 64 bits", "ModelFormatError", a_shape_beyond_64_bits)
damaged(
    "an index that leads out of the folder", "ModelFormatError", an_index_that_leaves_the_folder
)
damaged("a missing shard", "ModelNotFoundError", a_missing_shard)
damaged("pickled weights", "ModelNotFoundError", pickles_only, "safetensors")
damaged("a configuration that does not fit the tensors", "ModelFormatError", config(hidden_size=48))
damaged("a configuration that is no JSON", "ModelFormatError", text("config.json", "{"))
damaged("a configuration nested 100,000 deep", "ModelFormatError", text("config.json", "[" * 10**5))
damaged(
    "an architecture that nobody knows",
    "UnsupportedModelError",
    config(model_type="none", architectures=["NoneForCausalLM"]),
)
damaged("a billion layers", "ModelFormatError", config(num_hidden_layers=10**9))
damaged("heads of 2^30 elements", "ModelFormatError", config(head_dim=2**30))
damaged("a negative size", "ModelFormatError", config(hidden_size=-64))
damaged(
    "a sampling default that is NaN",
    "ModelFormatError",
    text("generation_config.json", '{"temperature": NaN}'),
)
damaged("a tokenizer of noise", "ModelFormatError", text("tokenizer.json", os.urandom(999)))
damaged(
    "a tokenizer larger than the model",
    "ModelFormatError",
    text("tokenizer.json", byte_tokenizer_files()[0]),
)
damaged(
    "a tokenizer that makes a text 2^64 times as long",
    "UnsupportedModelError",
    a_tokenizer(normalizer={"type": "Sequence", "normalizers": [TWO_FOR_ONE] * 64}),
    "normalizer",
)
damaged(
    "a tokenizer that repeats a text 65,536 times",
    "UnsupportedModelError",
    a_tokenizer(post_processor={"type": "Sequence", "processors": [TWICE] * 16}),
    "post_processor",
)
damaged(
    "a tokenizer whose pattern has 10^8 parts",
    "UnsupportedModelError",
    a_tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": r"(?:\p{L}{9999}){9999}"}}),
    "Regex",
)
damaged("a GGUF file cut off in its header", "ModelFormatError", a_gguf(lambda data: data[:100]))
damaged(
    "a GGUF file with 2^63 tensors",
    "ModelFormatError",
    a_gguf(lambda data: data[:8] + (2**63).to_bytes(8, "little") + data[16:]),
)
damaged(
    "a GGUF file of another version",
    "UnsupportedModelError",
    a_gguf(lambda data: data[:4] + (99).to_bytes(4, "little") + data[8:]),
)

TEMPLATES = {
    "a template with a syntax error": "{% for",
}
HOSTILE_TEMPLATES = {
    "a template with an unknown filter": "{{ messages | nothing }}",
    "a template that loops for ever": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a template that asks for a range of 10^9": "{% for i in range(1000000000) %}x{% endfor %}",
    "a template that writes gigabytes": '{{ "x" * 4000000000 }}',
    "a template that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a template that refuses": '{{ raise_exception("no") }}',
}


def template(source: str, *, at_load: bool) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        del stage

        def chat() -> None:
            with tiny_model(chat_template=source, **OPTIONS) as model:
                assert not at_load
                model.chat([{"role": "user", "content": "x"}], max_tokens=2)

        with pytest.raises(inferlib.TemplateError):
            chat()

    return play


for name, source in TEMPLATES.items():
    fault("file", name, "`TemplateError`")(template(source, at_load=True))
for name, source in HOSTILE_TEMPLATES.items():
    fault("file", name, "`TemplateError`")(template(source, at_load=False))


@fault("file", "a saved sequence of another model", "`SequenceMismatchError`")
def a_sequence_of_another_model(stage: Stage) -> None:
    path = stage.folder / "sequence"
    with tiny_model(seed=1, **OPTIONS) as other, other.prefill("Once") as sequence:
        sequence.save(path)
    with tiny_model(**OPTIONS) as model:
        stage.refused(inferlib.SequenceMismatchError, lambda: model.load_sequence(path))


@fault("file", "a saved sequence with a bit flipped, or cut off", "`SequenceFileError`")
def a_damaged_sequence(stage: Stage) -> None:
    path = stage.folder / "sequence"
    with tiny_model(**OPTIONS) as model:
        with model.prefill("Once") as sequence:
            sequence.save(path)
        data = path.read_bytes()
        for wrong in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), data + b"\0", b""):
            path.write_bytes(wrong)
            stage.refused(inferlib.SequenceFileError, lambda: model.load_sequence(path))


@fault("file", "a checkpoint of `generate_many` with a damaged line", "`CheckpointError`")
def a_damaged_checkpoint(stage: Stage) -> None:
    path = stage.folder / "run.jsonl"
    prompts = ["a", "b", "c"]
    list(stage.model.generate_many(prompts, checkpoint=path, max_tokens=2))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        lines[0] + b'{"index":0,"key":"0",' + b"\0" * 20 + b"}\n" + b"".join(lines[2:])
    )
    with pytest.raises(inferlib.CheckpointError):
        list(stage.model.generate_many(prompts, checkpoint=path, max_tokens=2))


@fault("file", "a decision log with a bit flipped", "`DecisionLogError`")
def a_damaged_log(stage: Stage) -> None:
    from inferlib._core import replay_decisions

    path = stage.folder / "log"
    with tiny_model(decision_log=path) as model:
        model.generate("x", max_tokens=4)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)
    stage.refused(inferlib.DecisionLogError, lambda: replay_decisions(path))
