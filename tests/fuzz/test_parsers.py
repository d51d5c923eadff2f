"""Every parser against mutated files: typed errors only, never a panic or a hang.

One second per parser in the ordinary suite; ``make fuzz FUZZ_SECONDS=600`` goes on for longer. The
seed is printed when a case fails, with the mutated input beside the test's temporary files.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.checkpoints import TINY
from tests.gguf_checkpoints import write_gguf
from tests.quantized_folders import FORMS, config, write

from inferlib import _core, loading
from inferlib.errors import InferlibError, InternalError
from inferlib.testing import byte_tokenizer_files

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = float(os.environ.get("FUZZ_SECONDS", "1"))
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]
WIDE = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
FRAGMENTS = [b"null", b"-1", b"1e999", b'"', b"{", b"}", b"[", b"]", b"\xff\xfe", b"{%", b"}}"]
ONE_CASE_SECONDS = 5.0
QUANTIZED = FORMS["packed act order asymmetric"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few edits: bytes, bits, integers, fragments, copies, cuts."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            return bytes(out)
        at = rng.randrange(len(out))
        # Headers matter more than tensors.
        at = min(at, rng.randrange(1, 4096)) if rng.random() < 0.7 else at
        at = min(at, len(out) - 1)
        match rng.randrange(7):
            case 0:
                out[at] = rng.choice(INTERESTING)
            case 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                size = rng.choice([4, 8])
                value = rng.choice(WIDE) % 2 ** (8 * size)
                out[at : at + size] = value.to_bytes(size, "little")
            case 3:
                fragment = rng.choice(FRAGMENTS)
                out[at : at + rng.choice([0, len(fragment)])] = fragment
            case 4:
                length = rng.randrange(1, 64)
                out[at:at] = out[at : at + length]
            case 5:
                del out[at : at + rng.randrange(1, 64)]
            case _:
                del out[at:]
    return bytes(out)


def fuzz(seed_input: bytes, parse: Callable[[bytes], object], folder: Path, name: str) -> None:
    """Parse mutations of ``seed_input`` until the time is up."""
    seed = random.randrange(2**32) if "FUZZ_SECONDS" in os.environ else 12345
    rng = random.Random(seed)
    parse(seed_input)
    end = time.monotonic() + SECONDS
    cases = 0
    while time.monotonic() < end:
        data = mutate(seed_input, rng)
        start = time.monotonic()
        try:
            parse(data)
        except InternalError:
            keep(folder, name, data, seed, cases)
            raise
        except InferlibError:
            pass
        except BaseException:
            keep(folder, name, data, seed, cases)
            raise
        if time.monotonic() - start > ONE_CASE_SECONDS:
            keep(folder, name, data, seed, cases)
            pytest.fail(f"case {cases} of seed {seed} took more than {ONE_CASE_SECONDS} s")
        cases += 1
    assert cases > 10, "the parser is too slow to be fuzzed"


def keep(folder: Path, name: str, data: bytes, seed: int, case: int) -> None:
    """Leave the input for a look."""
    path = folder / f"{name}-{seed}-{case}"
    path.write_bytes(data)
    print(f"kept {path}")  # noqa: T201  # pytest shows it with the failure


def without_text(folder: Path) -> bytes:
    """A small checkpoint's GGUF form."""
    path = folder / "seed.gguf"
    write_gguf("llama", path)
    return path.read_bytes()


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content | trim }}</u>"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


MODULES = (
    '[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},'
    ' {"idx": 1, "path": "", "type": "sentence_transformers.models.Normalize"}]'
)
WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nw\n##rld\n!\n1\n"


def parse_template(data: bytes) -> None:
    source = data.decode("utf-8", errors="replace")
    template = _core.ChatTemplate(source, {"eos_token": "</s>"})
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "ho"}]
    template.render(messages, add_generation_prompt=True)


def published(folder: Path) -> Callable[[bytes], object]:
    """Load a quantized folder whose configuration says this about it."""

    def parse(data: bytes) -> None:
        if not (folder / "quantized").exists():
            write(folder, QUANTIZED)
        path = folder / "quantized" / "config.json"
        whole = (TINY / "llama" / "config.json").read_bytes().rstrip().removesuffix(b"}")
        path.write_bytes(whole + b', "quantization_config": ' + data + b"}")
        loading.load(path.parent)

    return parse


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize(
    "parser",
    [
        "gguf",
        "safetensors",
        "config",
        "quantization",
        "encoder",
        "modules",
        "words",
        "tokenizer",
        "template",
    ],
)
def test_a_mutated_file_is_read_or_refused(parser, tmp_path):
    def weights(suffix: str) -> Callable[[bytes], object]:
        def parse(data: bytes) -> None:
            opened = _core.Weights.from_bytes(Path(f"fuzzed{suffix}"), data)
            for name in opened.names[:4]:
                opened.array(name)

        return parse

    def folder_with(case: str, name: str) -> Callable[[bytes], object]:
        """Load a golden checkpoint in which one file is the mutated one."""

        def parse(data: bytes) -> None:
            folder = tmp_path / "folder"
            if not folder.exists():
                folder.mkdir()
                for file in ("config.json", "model.safetensors"):
                    (folder / file).write_bytes((TINY / case / file).read_bytes())
            (folder / name).write_bytes(data)
            loaded = loading.load(folder)
            if loaded.text.tokenizer_json is not None:
                tokenizer(loaded.text.tokenizer_json)

        return parse

    def tokenizer(data: bytes) -> None:
        made = _core.Tokenizer.from_json(data)
        made.decode(made.encode("Hello, wörld! 123"))

    targets: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
        "gguf": (lambda: without_text(tmp_path), weights(".gguf")),
        "safetensors": (
            (TINY / "llama" / "model.safetensors").read_bytes,
            weights(".safetensors"),
        ),
        "config": (
            (TINY / "llama" / "config.json").read_bytes,
            folder_with("llama", "config.json"),
        ),
        "quantization": (lambda: json.dumps(config(QUANTIZED)).encode(), published(tmp_path)),
        "encoder": (
            (TINY / "bert-classifier" / "config.json").read_bytes,
            folder_with("bert-classifier", "config.json"),
        ),
        "modules": (MODULES.encode, folder_with("bert-embedding", "modules.json")),
        "words": (WORDS.encode, folder_with("bert-embedding", "vocab.txt")),
        "tokenizer": (lambda: byte_tokenizer_files()[0], tokenizer),
        "template": (TEMPLATE.encode, parse_template),
    }
    make_seed, parse = targets[parser]
    fuzz(make_seed(), parse, tmp_path, parser)
