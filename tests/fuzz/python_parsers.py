"""What is parsed in Python, under libFuzzer: ``python -m tests.fuzz.python_parsers TARGET``.

Atheris puts counters into the package's bytecode and takes libFuzzer's options. An error of ours is
fine, anything else is a finding. ``coverage_guided.py`` runs this.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris

with atheris.instrument_imports(include=["inferlib"], enable_loader_override=False):
    from tests.fuzz.test_every_damage import KINDS

    from inferlib.errors import InferlibError, InternalError
    from inferlib.output_syntax import REASONING_SYNTAXES, TOOL_SYNTAXES
    from inferlib.output_syntax.parser import (
        MarkerTables,
        OutputParser,
        OutputReading,
        parse_whole,
    )

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = [0, -1, 1, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30]
WORDS = ["", "llama", "gpt2", "\0", "default", "yarn", "F32", "x" * 1000]
FAMILIES = [
    "LlamaForCausalLM",
    "GemmaForCausalLM",
    "Gemma3ForCausalLM",
    "DeepseekV3ForCausalLM",
    "MixtralForCausalLM",
    "GptOssForCausalLM",
    "GPT2LMHeadModel",
    "BertModel",
]
ODD: list[Any] = [
    None,
    True,
    *NUMBERS,
    *WORDS,
    *([family] for family in FAMILIES),
    [],
    [[]],
    {},
    {"": 0},
    {"rope_type": "yarn", "factor": 4.0},
    {"type": "linear"},
]
KEYS = [
    "architectures",
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "hidden_act",
    "num_key_value_heads",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "v_head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "quantization_config",
    "torch_dtype",
    "text_config",
    "scoring_func",
    "id2label",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "n_routed_experts",
    "n_group",
    "topk_group",
    "kv_lora_rank",
    "q_lora_rank",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
]


def edited(tree: Any, rng: random.Random) -> Any:
    """The tree with one value exchanged, taken out, put in or wrapped."""
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(list(tree))
        match rng.randrange(5):
            case 0:
                return {name: each for name, each in tree.items() if name != key}
            case 1:
                return tree | {rng.choice(KEYS): rng.choice(ODD)}
            case _:
                return tree | {key: edited(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        place = rng.randrange(len(tree))
        return [*tree[:place], edited(tree[place], rng), *tree[place + rng.randrange(2) :]]
    if isinstance(tree, int) and not isinstance(tree, bool) and rng.random() < 0.5:
        return tree + rng.choice([-1, 1, tree, -2 * tree, 2**31])
    return rng.choice([rng.choice(ODD), [tree], {rng.choice(KEYS): tree}])


def mutate_json(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return atheris.Mutate(data, max_size)
    if rng.random() < 0.3:
        return atheris.Mutate(data, max_size)
    for _ in range(1 + rng.randrange(3)):
        tree = edited(tree, rng)
    return json.dumps(tree, ensure_ascii=False).encode("utf8", "surrogatepass")[:max_size]


SCHEMAS = {"f": {"a": {"type": "integer"}, "b": {"type": "string"}}}
READINGS = [
    OutputReading(tables=MarkerTables(syntax.regions, ()), schemas=SCHEMAS, salt="fuzzed")
    for syntax in dict.fromkeys([*TOOL_SYNTAXES.values(), *REASONING_SYNTAXES.values()])
]


def parse_output(data: bytes) -> None:
    """A model's output: read whole and in two parts, with the same result."""
    if len(data) < 3:
        return
    reading = READINGS[data[0] % len(READINGS)]
    text = data[2:].decode("utf8", "replace")
    whole = parse_whole(reading, text)
    parser = OutputParser(reading)
    cut = data[1] * len(text) // 255
    parts = parser.feed(text[:cut]) + parser.feed(text[cut:]) + parser.finish()
    assert parts == whole, "how the text is cut makes a difference"


def seed_of_output() -> bytes:
    return b'\0\x80a<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><think>b</think>'


def target(name: str, folder: Path) -> tuple[bytes, Callable[[bytes], None]]:
    """A valid input, and what parses."""
    if name == "output_syntax":
        return seed_of_output(), parse_output
    kind = {
        "config": "config.json",
        "checkpoint_log": "checkpoint",
        "saved_sequence": "saved sequence",
    }
    return KINDS[kind[name]](folder)


def main() -> None:
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        seed, parse = target(name, folder)
        corpus = [
            Path(each) for each in sys.argv[1:] if not each.startswith("-") and Path(each).is_dir()
        ]
        if corpus and not any("-merge" in each for each in sys.argv):
            (corpus[0] / "seed").write_bytes(seed)

        def test_one_input(data: bytes) -> None:
            try:
                parse(data)
            except InternalError:
                raise
            except InferlibError as error:
                if not str(error):
                    raise AssertionError("an error without a message") from error

        options = {"custom_mutator": mutate_json} if name == "config" else {}
        atheris.Setup(sys.argv, test_one_input, **options)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
