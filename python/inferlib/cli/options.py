"""Arguments that several commands take, and what they become."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, get_args

from ..config import Quantization
from ..model import Model
from ..quantized import quality_text

if TYPE_CHECKING:
    import argparse

    from ..completion import Completion

MODEL_HELP = (
    "a folder with config.json and safetensors, a .gguf file, the name of an installed model "
    'package ("smollm2"), or a model of Hugging Face\'s hub ("org/name", "org/name/file.gguf")'
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model is loaded."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("loading")
    group.add_argument(
        "--precision",
        choices=("fast", "balanced", "exact"),
        default="fast",
        help="numerics (default: fast)",
    )
    group.add_argument(
        "--kv-cache-dtype",
        choices=("auto", "f16", "bf16", "int8", "f32"),
        default="auto",
        help="what keys and values are stored as (default: f32 in exact precision, else f16)",
    )
    group.add_argument(
        "--kv-cache",
        metavar="SIZE",
        default="auto",
        help='memory for keys and values: "2GiB", "64k tokens" or "auto" (default)',
    )
    group.add_argument("--max-model-len", metavar="N", type=int, help="longest sequence in tokens")
    group.add_argument("--threads", metavar="N", type=int, help="CPU threads")
    group.add_argument(
        "--quantize",
        choices=get_args(Quantization),
        help="quantize the float matrices of a folder, and say on stderr how much that changes",
    )
    group.add_argument(
        "--packed-cache",
        metavar="DIR",
        help="keep packed weights here: faster starts, shared memory",
    )
    group.add_argument(
        "--speculation",
        choices=("auto", "prompt_lookup", "draft_model", "off"),
        default="auto",
        help="draft tokens where text repeats itself, and by the draft model if there is one; "
        "the answers are the same (default: auto)",
    )
    group.add_argument(
        "--draft-model",
        metavar="MODEL",
        help="a smaller model of the same vocabulary, to draft tokens",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen; what is not given comes from the model."""
    group = parser.add_argument_group("sampling (default: the model's own settings)")
    group.add_argument("-n", "--max-tokens", metavar="N", type=int, help="most tokens of an answer")
    group.add_argument("-t", "--temperature", metavar="T", type=float, help="0 is greedy")
    group.add_argument("--top-p", metavar="P", type=float)
    group.add_argument("--top-k", metavar="K", type=int)
    group.add_argument("--min-p", metavar="P", type=float)
    group.add_argument("--repetition-penalty", metavar="R", type=float)
    group.add_argument("--seed", metavar="N", type=int, help="the same answer every time")
    group.add_argument(
        "--stop", metavar="TEXT", action="append", help="end the answer here; may be repeated"
    )
    parser.add_argument(
        "--timings", action="store_true", help="say on stderr how long the answer took"
    )


def load_model(namespace: argparse.Namespace, *, chat_template: str | None = None) -> Model:
    """Load what ``add_model_arguments`` describes."""
    model = Model.from_pretrained(
        namespace.model,
        precision=namespace.precision,
        kv_cache_dtype=namespace.kv_cache_dtype,
        kv_cache=namespace.kv_cache,
        max_model_len=namespace.max_model_len,
        threads=namespace.threads,
        packed_cache=namespace.packed_cache,
        speculation=namespace.speculation,
        draft_model=namespace.draft_model,
        chat_template=chat_template,
        quantize=namespace.quantize,
    )
    if namespace.quantize is not None:
        sys.stderr.write(f"[{quality_text(model.stats()['details']['quantization'])}]\n")
    return model


def sampling_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Collect the options of ``add_sampling_arguments`` that were given."""
    names = (
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
    )
    return {name: value for name in names if (value := getattr(namespace, name, None)) is not None}


def write_timings(completion: Completion) -> None:
    """Say on stderr how long a completion took."""
    usage, timings = completion.usage, completion.timings
    line = (
        f"[{usage.prompt_tokens} prompt tokens, {usage.cached_tokens} cached; "
        f"{usage.output_tokens} tokens in {timings.total:.2f} s"
    )
    if timings.first_token is not None:
        line += f"; first after {timings.first_token:.2f} s"
    if timings.tokens_per_second is not None:
        line += f", then {timings.tokens_per_second:.1f} per second"
    if usage.drafted_tokens:
        line += f"; {usage.accepted_tokens} of {usage.drafted_tokens} drafted tokens accepted"
    sys.stderr.write(f"{line}]\n")
