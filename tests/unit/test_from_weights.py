"""A model of weights that the host has in memory: the same as from its files."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.checkpoints import TINY

import inferlib
from inferlib import Model
from inferlib.testing import byte_tokenizer, tiny_model

GREEDY = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 2}
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
OPTIONS = {"precision": "exact", "max_model_len": 64, "threads": 1}


def files_of(case):
    folder = TINY / case
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    return config, load_file(folder / "model.safetensors")


def answer(model):
    with model:
        completion = model.generate(PROMPT, **GREEDY)
        return completion.token_ids, repr(completion.outputs[0].logprobs)


@pytest.mark.parametrize(
    "case", ["llama", "qwen3", "gemma3", "gpt2", "phi3", "mixtral", "gpt-neox"]
)
def test_it_says_what_the_checkpoint_says(case):
    config, tensors = files_of(case)
    expected = answer(Model.from_pretrained(TINY / case, **OPTIONS))
    assert answer(Model.from_weights(config, tensors, **OPTIONS)) == expected
    assert answer(Model.from_weights(config, iter(tensors.items()), **OPTIONS)) == expected


def test_floats_of_any_kind_and_order_are_taken():
    config, tensors = files_of("llama")
    halves = {name: values.astype(ml_dtypes.bfloat16) for name, values in tensors.items()}
    widened = {name: values.astype(np.float64) for name, values in halves.items()}
    odd = {
        name: np.asfortranarray(np.repeat(values, 2, axis=0))[::2]
        for name, values in widened.items()
    }
    first, *others = (
        answer(Model.from_weights(config, each, **OPTIONS)) for each in (halves, widened, odd)
    )
    assert others == [first, first]


def test_receipts_know_the_weights():
    config, tensors = files_of("llama")
    with Model.from_weights(config, tensors, **OPTIONS) as model:
        receipt = model.generate(PROMPT, **GREEDY).receipt.to_dict()
        assert model.replay(receipt).token_ids
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.01
    with (
        Model.from_weights(config, tensors, **OPTIONS) as other,
        pytest.raises(inferlib.ReplayError) as raised,
    ):
        other.replay(receipt)
    assert raised.value.field == "weights"


def test_with_a_tokenizer_it_reads_text_and_chats():
    config, tensors = files_of("llama")
    tokenizer = byte_tokenizer()
    config["vocab_size"] = size = tokenizer.vocab_size
    generator = np.random.default_rng(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = generator.standard_normal((size, 64), np.float32)
    with Model.from_weights(
        config,
        tensors,
        tokenizer=tokenizer,
        chat_template="{{ messages[0].content }}",
        generation_config={"temperature": 0.5},
        max_model_len=64,
    ) as model:
        assert model.generate("abc", max_tokens=3).params.temperature == 0.5
        assert model.chat([{"role": "user", "content": "x"}], max_tokens=3, ignore_eos=True).text


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            lambda _, w: w.pop("model.norm.weight"),
            "ModelFormatError",
            "model.norm.weight is missing",
        ),
        (lambda _, w: w.update(x=np.ones(3)), "ModelFormatError", "x is not used"),
        (lambda c, _: c.update(hidden_size=48), "ModelFormatError", "do not fit"),
        (lambda c, _: c.update(architectures=["Nobody"]), "UnsupportedModelError", "Nobody"),
        (lambda _, w: w.update(x="text"), "RequestError", "'x'"),
        (lambda _, w: w.update(x=np.ones(3, int)), "RequestError", "array of floats"),
        (lambda _, w: w.update(x=np.zeros(3, "V10")), "RequestError", "array of floats"),
        (lambda _, w: w.update(x=np.float32(3)), "RequestError", "array of floats"),
    ],
)
def test_what_does_not_fit_is_named(change, error, says):
    config, tensors = files_of("llama")
    change(config, tensors)
    with pytest.raises(getattr(inferlib, error), match=says):
        Model.from_weights(config, tensors)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"config": None}, "config"),
        ({"config": {1: 2}}, "config"),
        ({"weights": None}, "weights"),
        ({"weights": "text"}, "weights"),
        ({"weights": [1]}, "weights"),
        ({"weights": [("a", np.ones(3)), ("a", np.ones(3))]}, "weights"),
        ({"tokenizer": "smollm2"}, "tokenizer"),
        ({"generation_config": []}, "generation_config"),
        ({"chat_template": 3}, "chat_template"),
        ({"packed_cache": "folder"}, "packed_cache"),
        ({"quantize": "q8_0"}, "quantize"),
        ({"revision": "main"}, "revision"),
        ({"threads": 0}, "threads"),
    ],
)
def test_arguments_are_refused_by_name(given, field):
    config, tensors = files_of("llama")
    with pytest.raises(inferlib.RequestError) as raised:
        Model.from_weights(**{"config": config, "weights": tensors, **given})
    assert raised.value.field == field


def test_it_cannot_be_pickled():
    import pickle

    with tiny_model() as model, pytest.raises(TypeError, match="not loaded from a file"):
        pickle.dumps(model)
