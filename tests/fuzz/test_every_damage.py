"""Every truncation and every flipped bit of a small file of each kind: read, or refused by type.

Memory stays within twice the input and 16 MB. Where each case means a file that is written, or a
grammar that may compile for a second, the ordinary suite flips one bit of each byte, the slow one
all. ``test_parsers.py`` goes further, at random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save

from inferlib import _core
from inferlib.architectures import Fields, architecture_of_config
from inferlib.checkpoint_files import read_json
from inferlib.checkpoint_log import CheckpointLog
from inferlib.errors import InferlibError, InternalError
from inferlib.testing import EOS_ID, VOCAB_SIZE, byte_tokenizer, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_EXTRA_BYTES = 16 << 20
SMALL = {"max_position_embeddings": 64, "kv_cache": "64 tokens", "num_layers": 1}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "hidden_act": "silu",
    "vocab_size": 150,
    "tie_word_embeddings": False,
}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {
            "id": 3,
            "content": "<s>",
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content | trim }}{% else %}"
    "{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>"
    "{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"enum": ["x", None]}},
    "required": ["a"],
}


def gguf_bytes(folder: Path) -> bytes:
    import gguf

    path = folder / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
    writer.add_tensor("token_embd.weight", np.ones((2, 32), np.float32))
    writer.add_tensor("norm.weight", np.ones(5, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def open_weights(name: str) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        opened = _core.Weights.from_bytes(Path(name), data)
        for tensor in opened.names:
            opened.array(tensor)
        opened.metadata()

    return parse


def config_of(folder: Path) -> Callable[[bytes], None]:
    path = folder / "config.json"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        config = Fields(read_json(path), source=str(path))
        architecture_of_config(config).spec_from_config(config)

    return parse


def parse_tokenizer(data: bytes) -> None:
    made = _core.Tokenizer.from_json(data)
    made.decode(made.encode("ab aab<s>"))


def parse_template(data: bytes) -> None:
    template = _core.ChatTemplate(data.decode("utf-8", "replace"), {"eos_token": "</s>"})
    template.render([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])


def saved_sequence(folder: Path) -> tuple[bytes, Callable[[bytes], None]]:
    model = tiny_model(**SMALL)
    path = folder / "sequence"
    with model.prefill([1, 2, 3]) as sequence:
        sequence.save(path)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        model.load_sequence(path).close()

    return path.read_bytes(), parse


def decision_log(folder: Path) -> tuple[bytes, Callable[[bytes], None]]:
    path = folder / "log"
    with tiny_model(decision_log=path, **SMALL) as model:
        model.generate([1, 2], max_tokens=2, seed=1)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        _core.replay_decisions(path)

    return path.read_bytes(), parse


def checkpoint(folder: Path) -> tuple[bytes, Callable[[bytes], None]]:
    path = folder / "run.jsonl"
    depends = {"params": {"seed": 1}}
    log = CheckpointLog(path, depends)
    log.put(0, "ab", {"text": "äöü", "n": 1})
    log.put(1, "cd", {"text": ""})
    log.close()

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        log = CheckpointLog(path, depends)
        try:
            for index, key in ((0, "ab"), (1, "cd")):
                log.get(index, key)
        finally:
            log.close()

    return path.read_bytes(), parse


def grammar(compile_: str) -> Callable[[bytes], None]:
    grammars = _core.Grammars(byte_tokenizer(), [EOS_ID], VOCAB_SIZE)

    def parse(data: bytes) -> None:
        getattr(grammars, compile_)(data.decode("utf-8", "replace"))

    return parse


KINDS: dict[str, Callable[[Path], tuple[bytes, Callable[[bytes], None]]]] = {
    "gguf": lambda folder: (gguf_bytes(folder), open_weights("small.gguf")),
    "safetensors": lambda _: (
        save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, {"format": "pt"}),
        open_weights("small.safetensors"),
    ),
    "config.json": lambda folder: (json.dumps(CONFIG).encode(), config_of(folder)),
    "tokenizer.json": lambda _: (json.dumps(TOKENIZER).encode(), parse_tokenizer),
    "chat template": lambda _: (TEMPLATE.encode(), parse_template),
    "saved sequence": saved_sequence,
    "decision log": decision_log,
    "checkpoint": checkpoint,
    "JSON schema": lambda _: (json.dumps(SCHEMA).encode(), grammar("json_schema")),
    "expression": lambda _: (rb"(a|b{1,3})+[c-e]?\d\.\x41", grammar("regex")),
    "grammar": lambda _: (b'start: a+ "x"\na: /[a-z]/ | "b" start?\n', grammar("lark")),
}


COSTLY = {"config.json", "saved sequence", "decision log", "checkpoint", "grammar"}


def damages(data: bytes, *, all_bits: bool) -> Iterator[tuple[str, bytes]]:
    for length in range(len(data)):
        yield f"the first {length} bytes", data[:length]
    for place in range(len(data)):
        for bit in range(8) if all_bits else (place % 8,):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            yield f"bit {bit} of byte {place}", bytes(damaged)


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_read_or_refused(kind, tmp_path):
    check(kind, tmp_path, all_bits=kind not in COSTLY)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", sorted(COSTLY))
def test_every_bit_of_a_file_is_read_or_refused(kind, tmp_path):
    check(kind, tmp_path, all_bits=True)


def check(kind: str, folder: Path, *, all_bits: bool) -> None:
    data, parse = KINDS[kind](folder)
    assert len(data) < 4096
    parse(data)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = memory()["VmRSS"]
    refused = 0
    for what, damaged in damages(data, all_bits=all_bits):
        try:
            parse(damaged)
        except InternalError:
            pytest.fail(f"{what}: an internal error")
        except InferlibError as error:
            assert str(error), what  # noqa: PT017  # what is raised differs from case to case
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert refused > len(data) // 4, "the parser refuses hardly anything"
    assert memory()["VmHWM"] - before <= 2 * len(data) + MOST_EXTRA_BYTES
