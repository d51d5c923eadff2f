"""LoRA adapters against PEFT's float32 results, and against whoever else is in the batch."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import TINY
from tests.gguf_checkpoints import GGUF_CASES, write_gguf

from inferlib import (
    CheckpointMismatchError,
    Model,
    ModelFormatError,
    ModelNotFoundError,
    ReplayError,
    RequestError,
    UnsupportedModelError,
)

LORA = TINY.parent / "lora"
BASES = {
    "llama-attention": "llama",
    "llama-all": "llama",
    "qwen3-rslora": "qwen3",
    "phi3-fused": "phi3",
    "gemma2-patterns": "gemma2",
}
# Of the standard deviation of the logits, as for models without adapters.
TOLERANCE = 2e-4
GREEDY = {"temperature": 0, "ignore_eos": True}


def answer(completion):
    """Everything that must be equal, bit for bit."""
    rows = [sorted((t, e.logprob) for t, e in row.items()) for row in completion.logprobs]
    return completion.token_ids, rows


# gemma2's file has other queries than its folder: see gguf_checkpoints._prepared.
@pytest.mark.parametrize(
    ("case", "as_gguf"),
    [(case, False) for case in BASES]
    + [(c, True) for c, base in BASES.items() if base != "gemma2"],
)
def test_results_are_those_of_peft(case, as_gguf, tmp_path):
    base = BASES[case]
    path, golden = TINY / base, np.load(LORA / case / "reference.npz")
    if as_gguf:
        assert base in GGUF_CASES
        path = tmp_path / "model.gguf"
        write_gguf(base, path)
    logits = golden["logits"].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    size = logits.shape[-1]
    with Model.from_pretrained(path, precision="exact", threads=2) as model:
        name = model.load_adapter(LORA / case)
        assert model.adapters == [name] == [case]
        prompts = [ids.tolist() for ids in golden["input_ids"]]
        found = model.generate(prompts, adapter=name, max_tokens=12, prompt_logprobs=size, **GREEDY)
        for completion, rows, greedy in zip(found, expected, golden["greedy"], strict=True):
            scored = np.array(
                [[r[t].logprob for t in range(size)] for r in completion.prompt_logprobs[1:]]
            )
            assert np.abs(scored - rows[:-1]).max() <= TOLERANCE * logits.std()
            assert completion.token_ids == greedy.tolist()
        plain = np.load(TINY / base / "reference.npz")
        without = model.generate(prompts, max_tokens=12, **GREEDY)
        for completion, greedy in zip(without, plain["greedy"], strict=True):
            assert completion.token_ids == greedy.tolist()[:12]


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_adapters_in_one_batch_do_not_touch_each_other_nor_the_model(precision):
    options = {"max_tokens": 8, "logprobs": 3, **GREEDY}
    prompts = [[5 + i, 9, 30 + 2 * i, 7, 11, 20 + i] * (1 + i) for i in range(6)]
    names = [None, "llama-attention", "llama-all", None, "llama-all", "llama-attention"]
    with Model.from_pretrained(TINY / "llama", precision=precision, threads=1) as plain:
        bare = [answer(plain.generate(prompt, **options)) for prompt in prompts]
    settings = {"precision": precision, "threads": 2, "max_num_batched_tokens": 13}
    with Model.from_pretrained(TINY / "llama", **settings) as model:
        for name in ("llama-attention", "llama-all"):
            model.load_adapter(LORA / name)
        alone = [
            answer(model.generate(prompt, adapter=name, **options))
            for prompt, name in zip(prompts, names, strict=True)
        ]
        handles = [
            model.submit(prompt, adapter=name, **options)
            for prompt, name in zip(prompts, names, strict=True)
        ]
        assert [answer(handle.result()) for handle in handles] == alone
        for index, name in enumerate(names):
            assert (alone[index] == bare[index]) == (name is None)
        # The same prompt under another adapter is not found in the prefix cache.
        long = list(range(3, 100))
        cached = [
            model.generate(long, adapter=name, **options).num_cached_tokens
            for name in (None, "llama-all", None, "llama-all", "llama-attention")
        ]
        assert [count > 0 for count in cached] == [False, False, True, True, False]
        # No salt finds it either.
        forged = model.generate(long, cache_salt="\x001", **options)
        assert forged.num_cached_tokens == 0
        assert model.stats()["details"]["adapter_bytes"] > 0


def test_an_adapter_comes_and_goes():
    with Model.from_pretrained(TINY / "llama", threads=1) as model:
        model.load_adapter(LORA / "llama-all", name="one")
        with pytest.raises(RequestError, match="already") as caught:
            model.load_adapter(LORA / "llama-attention", name="one")
        assert caught.value.field == "name"
        first = model.generate([5, 6, 7], adapter="one", max_tokens=4, **GREEDY)
        handle = model.submit([5, 6, 7], adapter="one", max_tokens=40, **GREEDY)
        with pytest.raises(RequestError, match="have not ended"):
            model.unload_adapter("one")
        assert handle.result().token_ids[:4] == first.token_ids
        model.unload_adapter("one")
        assert model.adapters == []
        with pytest.raises(RequestError, match="no adapter 'one'") as caught:
            model.generate([5, 6, 7], adapter="one")
        assert caught.value.field == "adapter"
        with pytest.raises(RequestError):
            model.unload_adapter("one")
        model.load_adapter(LORA / "llama-attention", name="one")
        other = model.generate([5, 6, 7], adapter="one", max_tokens=4, **GREEDY)
        assert other.receipt.origin.adapter != first.receipt.origin.adapter


def test_a_run_with_a_checkpoint_goes_on_only_with_the_same_adapter(tmp_path):
    path, options = tmp_path / "results.jsonl", {"max_tokens": 4, **GREEDY}
    with Model.from_pretrained(TINY / "llama", threads=1) as model:
        model.load_adapter(LORA / "llama-all", name="one")
        first = list(model.generate_many([[5, 6, 7]], adapter="one", checkpoint=path, **options))
        for other in (None, "another"):
            if other is not None:
                model.load_adapter(LORA / "llama-attention", name=other)
            with pytest.raises(CheckpointMismatchError, match="adapter"):
                model.generate_many([[5, 6, 7]], adapter=other, checkpoint=path, **options)
        model.unload_adapter("one")
        model.load_adapter(LORA / "llama-all", name="same files")
        again = model.generate_many([[5, 6, 7]], adapter="same files", checkpoint=path, **options)
        (restored,) = again
        assert restored.is_restored
        assert restored.completion.token_ids == first[0].completion.token_ids
        with pytest.raises(RequestError, match="no adapter 'none such'"):
            model.chat_many([], adapter="none such")


def test_a_receipt_names_the_adapter_and_is_replayed_with_the_same_files():
    with Model.from_pretrained(TINY / "llama", threads=1) as model:
        model.load_adapter(LORA / "llama-all")
        completion = model.generate([5, 6, 7], adapter="llama-all", seed=3, max_tokens=9)
        stored = json.loads(json.dumps(completion.receipt.to_dict()))
    with Model.from_pretrained(TINY / "llama", threads=2) as model:
        with pytest.raises(ReplayError) as caught:
            model.replay(stored)
        assert caught.value.field == "adapter"
        model.load_adapter(LORA / "llama-all", name="another name")
        assert model.replay(stored).token_ids == completion.token_ids


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(LORA / "llama-attention", tmp_path / "adapter")


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {".*q_proj": 3}}, "expression"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(folder, changes, words):
    edit(folder, **changes)
    with (
        Model.from_pretrained(TINY / "llama", threads=1) as model,
        pytest.raises(UnsupportedModelError, match=words),
    ):
        model.load_adapter(folder)


def test_what_does_not_fit_is_in_one_message(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    tensors[names[0]] = np.zeros((4, 63), np.float32)
    tensors[names[2]] = np.full_like(tensors[names[2]], np.nan)
    del tensors[names[5]]
    tensors["base_model.model.model.layers.0.mlp.extra.lora_A.weight"] = np.zeros((4, 64), "f4")
    save_file(tensors, path)
    with Model.from_pretrained(TINY / "llama", threads=1) as model:
        with pytest.raises(ModelFormatError) as caught:
            model.load_adapter(folder)
        for words in ("[4, 63]", "NaN", "only one of its two", "mlp.extra is no linear layer"):
            assert words in str(caught.value)
        assert model.adapters == []
        assert model.generate([5, 6], max_tokens=1).token_ids


def test_another_models_adapter_is_refused():
    with (
        Model.from_pretrained(TINY / "phi3", threads=1) as model,
        pytest.raises(ModelFormatError, match="is no linear layer of this model"),
    ):
        model.load_adapter(LORA / "llama-attention")


def test_a_wrong_rank_and_missing_files(folder, tmp_path):
    edit(folder, r=3)
    with Model.from_pretrained(TINY / "llama", threads=1) as model:
        with pytest.raises(ModelFormatError, match="'r'"):
            model.load_adapter(folder)
        with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json"):
            model.load_adapter(tmp_path / "nowhere")
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(ModelNotFoundError, match="safetensors"):
            model.load_adapter(folder)
        with model.prefill([5, 6]) as sequence, pytest.raises(RequestError) as caught:
            sequence.generate(adapter="llama-attention")
        assert caught.value.field == "adapter"
