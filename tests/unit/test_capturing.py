"""``forward`` and ``weight``: names, positions, chunks, batch mates, limits, errors."""

from __future__ import annotations

import asyncio
import pickle
import threading

import numpy as np
import pytest

from inferlib import ClosedError, ExecutorError, Limits, Model, ModelError, RequestError
from inferlib.testing import tiny_model
from inferlib.testing.tiny import tiny_spec

TEXT = "The residual stream is what all layers read and write."
EVERYTHING = {"capture": "*", "logits": True}


@pytest.fixture(scope="module")
def model():
    with tiny_model(num_layers=3) as model:
        yield model


def same(a, b):
    """The same bits under the same names."""
    assert list(a) == list(b)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert (a.logits is None) == (b.logits is None)
    assert a.logits is None or np.array_equal(a.logits, b.logits)


def test_names_are_those_of_transformer_lens_in_the_order_of_the_forward_pass(model):
    block = [
        *("hook_resid_pre", "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_v", "attn.hook_z"),
        *("hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"),
    ]
    blocks = [f"blocks.{i}.{name}" for i in range(3) for name in block]
    assert model.capture_points == (
        *("hook_embed", *blocks),
        *("ln_final.hook_normalized", "ln_final"),
    )


def test_every_point_has_a_row_per_token(model):
    activations = model.forward(TEXT, **EVERYTHING)
    count = len(activations.token_ids)
    assert activations.prompt == TEXT
    assert activations.positions.tolist() == list(range(count))
    assert activations.logits.shape == (count, 258)
    layer = tiny_spec().layers[0]
    widths = {"hook_rot_k": layer.attention.kv_size, "hook_v": layer.attention.kv_size}
    widths |= {"hook_post": layer.mlp.intermediate_size}
    for name, rows in activations.items():
        assert rows.dtype == np.float32, name
        assert rows.shape == (count, widths.get(name.rpartition(".")[2], 64)), name
        assert rows.flags.writeable, name
    assert repr(activations) == (
        f"<Activations at {count} tokens: 33 points, logits [{count}, 258]>"
    )


def test_the_stream_is_the_sum_of_what_was_added_to_it(model):
    found = model.forward(TEXT, capture="*")
    assert np.array_equal(found["hook_embed"], found["blocks.0.hook_resid_pre"])
    for i in range(3):
        block = f"blocks.{i}."
        middle = found[f"{block}hook_resid_pre"] + found[f"{block}hook_attn_out"]
        assert np.array_equal(middle, found[f"{block}hook_resid_mid"])
        end = middle + found[f"{block}hook_mlp_out"]
        assert np.array_equal(end, found[f"{block}hook_resid_post"])


def test_logits_follow_from_the_last_stream_and_the_weights():
    with tiny_model(precision="exact") as model:
        found = model.forward(TEXT, capture=["ln_final.hook_normalized", "ln_final"], logits=True)
        normed = found["ln_final.hook_normalized"] * model.weight("norm.weight")
        assert np.allclose(normed, found["ln_final"], rtol=1e-5, atol=1e-6)
        logits = found["ln_final"] @ model.weight("lm_head.weight").T
        assert np.allclose(logits, found.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fast", "balanced", "exact"])
def test_logits_are_those_that_tokens_are_drawn_from(precision):
    with tiny_model(precision=precision) as model:
        logits = model.forward(TEXT, logits=True).logits.astype(np.float64)
        completion = model.generate(TEXT, temperature=0, max_tokens=1, prompt_logprobs=0)
        assert completion.token_ids == [int(logits[-1].argmax())]
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        ids = completion.prompt_token_ids
        for position in range(1, len(ids)):
            found = completion.prompt_logprobs[position][ids[position]].logprob
            assert found == pytest.approx(logprobs[position - 1, ids[position]], abs=1e-4)


def test_patterns_and_names_come_once_and_in_order(model):
    found = model.forward(
        "abc", capture=["ln_final", "blocks.*.hook_resid_post", "blocks.1.hook_resid_post"]
    )
    assert list(found) == [*(f"blocks.{i}.hook_resid_post" for i in range(3)), "ln_final"]
    assert list(model.forward("abc", capture="blocks.[01].attn.hook_v")) == [
        "blocks.0.attn.hook_v",
        "blocks.1.attn.hook_v",
    ]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        (3, [3]),
        (-1, [4]),
        ([4, 0, -2], [4, 0, 3]),
        (np.array([1, 2]), [1, 2]),
        (np.int64(2), [2]),
        (slice(1, None, 2), [1, 3]),
        (slice(-2, None), [3, 4]),
        (range(2), [0, 1]),
    ],
)
def test_positions_choose_rows(model, positions, expected):
    whole = model.forward("abcde", **EVERYTHING)
    found = model.forward("abcde", positions=positions, **EVERYTHING)
    assert found.positions.tolist() == expected
    for name, rows in found.items():
        assert np.array_equal(rows, whole[name][expected]), name
    assert np.array_equal(found.logits, whole.logits[expected])


@pytest.mark.parametrize("logits", [False, True])
def test_chunks_batch_mates_cached_prefixes_and_threads_change_no_bit(logits):
    texts = [TEXT, "x", TEXT + " And so on.", TEXT[:20]]
    with tiny_model(max_num_batched_tokens=512) as model:
        expected = [model.forward(text, capture="*", logits=logits) for text in texts]
        for found, alone in zip(
            model.forward(texts, capture="*", logits=logits), expected, strict=True
        ):
            same(found, alone)
    with tiny_model(max_num_batched_tokens=7, threads=2) as model:
        handles = [model.submit(f"{i} is generated beside", max_tokens=40) for i in range(4)]
        for text, alone in zip(texts, expected, strict=True):
            same(model.forward(text, capture="*", logits=logits), alone)
        [handle.result() for handle in handles]


def test_a_prefix_is_cached_up_to_the_first_position():
    with tiny_model() as model:
        whole = model.forward(TEXT, **EVERYTHING)
        assert len(whole.token_ids) == 54
        for start, cached in ((0, 0), (16, 16), (40, 32), (-1, 48)):
            before = model.stats()["cached_tokens"]
            found = model.forward(TEXT, positions=slice(start, None), **EVERYTHING)
            assert model.stats()["cached_tokens"] - before == cached
            places = found.positions
            for name, rows in found.items():
                assert np.array_equal(rows, whole[name][places]), name
            assert np.array_equal(found.logits, whole.logits[places])


def test_looking_changes_no_token():
    with tiny_model() as model, tiny_model() as other:
        handles = [model.submit(TEXT[:k], temperature=1, seed=k, max_tokens=30) for k in (3, 9, 20)]
        model.forward([TEXT, TEXT[5:]], **EVERYTHING)
        for k, handle in zip((3, 9, 20), handles, strict=True):
            alone = other.generate(TEXT[:k], temperature=1, seed=k, max_tokens=30)
            assert handle.result().token_ids == alone.token_ids


def test_generated_tokens_are_looked_at_with_their_prompt(model):
    completion = model.generate(TEXT, temperature=0, max_tokens=8, ignore_eos=True)
    ids = completion.prompt_token_ids + completion.token_ids
    logits = model.forward(ids, logits=True).logits
    drawn = logits[len(completion.prompt_token_ids) - 1 : -1].argmax(-1)
    assert drawn.tolist() == completion.token_ids


def test_calls_from_threads_and_event_loops_run_at_once(model):
    alone = model.forward(TEXT, **EVERYTHING)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(model.forward(TEXT, **EVERYTHING)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same_again = asyncio.run(_twice(model))
    for each in [*found, *same_again]:
        same(each, alone)


async def _twice(model):
    one, several = await asyncio.gather(
        model.aforward(TEXT, **EVERYTHING), model.aforward([TEXT, TEXT], **EVERYTHING)
    )
    return [one, *several]


def test_one_gives_one_and_a_list_a_list(model):
    assert model.forward([], logits=True) == []
    (only,) = model.forward(["abc"], logits=True)
    same(only, model.forward("abc", logits=True))
    same(model.forward(only.token_ids, logits=True), only)


def test_results_can_be_pickled(model):
    found = model.forward("abc", **EVERYTHING)
    same(pickle.loads(pickle.dumps(found)), found)


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"capture": "blocks.0.hook_resid_pst"}, "capture", "near it are blocks.0.hook_resid_post"),
        ({"capture": "blocks.7.hook_resid_post"}, "capture", "near it are blocks.2."),
        ({"capture": "nothing.*"}, "capture", "Model.capture_points lists all names"),
        ({"capture": "unembed"}, "capture", "no capture point"),
        ({"capture": [1]}, "capture", "must be a string"),
        ({"capture": 1}, "capture", "must be a list"),
        ({}, "capture", "logits=True"),
        ({"capture": "ln_final", "positions": 5}, "positions", "from -5 to 4"),
        ({"capture": "ln_final", "positions": [0, -6]}, "positions", "from -5 to 4"),
        ({"capture": "ln_final", "positions": []}, "positions", "no token"),
        ({"capture": "ln_final", "positions": slice(9, None)}, "positions", "no token"),
        ({"capture": "ln_final", "positions": slice("a")}, "positions", "slice"),
        ({"capture": "ln_final", "positions": [0.5]}, "positions", "whole number"),
        ({"capture": "ln_final", "logits": 1}, "logits", "True or False"),
        ({"capture": "ln_final", "adapter": "none"}, "adapter", "no adapter"),
        ({"capture": "ln_final", "tenant": 1}, "tenant", "string"),
        ({"captur": "ln_final"}, "captur", "did you mean capture?"),
    ],
)
def test_what_cannot_be_is_refused_by_name(model, arguments, field, message):
    with pytest.raises(RequestError) as caught:
        model.forward("abcde", **arguments)
    assert caught.value.field == field
    assert message in f"{caught.value} {caught.value.hint}"


def test_more_than_the_limit_is_refused_before_anything_runs():
    with tiny_model(limits=Limits(capture_bytes=20_000)) as model:
        steps = model.stats()["steps"]
        with pytest.raises(RequestError, match="limit of 20,000") as caught:
            model.forward("x" * 100, capture="ln_final")
        assert caught.value.field == "capture"
        with pytest.raises(RequestError, match="captures"):
            model.forward("x" * 20, logits=True)
        with pytest.raises(RequestError, match="captures"):  # what is handed out counts as well
            model.forward("x" * 100, capture="ln_final", positions=[0, -1])
        assert model.stats()["steps"] == steps
        assert model.forward("x" * 100, capture="ln_final", positions=-1)["ln_final"].any()


def test_a_prompt_that_leaves_no_token_has_activations_but_no_logits():
    with tiny_model(max_model_len=32) as model:
        assert len(model.forward([65] * 32, capture="ln_final")["ln_final"]) == 32
        assert model.forward([65] * 31, logits=True).logits.shape == (31, 258)
        with pytest.raises(RequestError):
            model.forward([65] * 32, logits=True)


def test_numbers_that_are_none_are_an_error():
    with tiny_model(nan_token_id=65) as model:
        with pytest.raises(ExecutorError, match="not numbers"):
            model.forward("A", capture="*")
        with pytest.raises(ExecutorError):
            model.forward("A", logits=True)
        assert model.forward("B", **EVERYTHING)


def test_weights_are_read_by_canonical_name(model):
    shapes = model.weight_shapes
    assert shapes["layers.2.self_attn.qkv_proj.weight"] == (128, 64)
    for name, shape in shapes.items():
        assert model.weight(name).shape == shape
    with pytest.raises(RequestError, match="no weight") as caught:
        model.weight("layers.0.attn_nrm.weight")
    assert "layers.0.attn_norm.weight" in caught.value.hint
    with pytest.raises(RequestError):
        model.weight(3)


def test_a_model_of_given_weights_does_not_keep_them():
    spec_model = Model.from_weights(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 40,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
        _given(),
        device="cpu",
    )
    with spec_model as model:
        assert model.weight_shapes["lm_head.weight"] == (40, 32)
        with pytest.raises(ModelError, match="does not keep"):
            model.weight("norm.weight")
        assert model.forward([1, 2, 3], logits=True).logits.shape == (3, 40)


def _given():
    rng = np.random.default_rng(0)
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (40, 32),
        "model.norm.weight": (32,),
        f"{layer}input_layernorm.weight": (32,),
        f"{layer}post_attention_layernorm.weight": (32,),
        **{f"{layer}self_attn.{name}_proj.weight": (32, 32) for name in "qkvo"},
        f"{layer}mlp.gate_proj.weight": (64, 32),
        f"{layer}mlp.up_proj.weight": (64, 32),
        f"{layer}mlp.down_proj.weight": (32, 64),
    }
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_a_closed_model_is_not_looked_into():
    model = tiny_model()
    model.close()
    with pytest.raises(ClosedError):
        model.forward("abc", logits=True)
    with pytest.raises(ClosedError):
        model.weight("norm.weight")
