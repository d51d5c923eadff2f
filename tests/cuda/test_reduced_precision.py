"""The bf16 path of the CUDA executor: as near float64 as bf16 is; the same bits in every batch."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from tests.checkpoints import reference_executor
from tests.cuda.launching import open_device
from tests.cuda_emulator.numbers import to_bits, to_values
from tests.quantized_checkpoints import VOCAB_SIZE as QUANTIZED_VOCAB_SIZE
from tests.quantized_checkpoints import write_random_llama
from tests.real_models import real_model
from tests.reference import ReferenceExecutor

from inferlib import Model, UnsupportedModelError
from inferlib.assembly import assemble
from inferlib.checkpoint import Checkpoint
from inferlib.config import EngineConfig
from inferlib.executors.cuda_attention import HEAD_DIMS
from inferlib.executors.cuda_matrices import DeviceWeights
from inferlib.executors.kernels import KernelSources, source_folder
from inferlib.model_spec import RopeSpec
from inferlib.testing import VOCAB_SIZE, tiny_spec
from inferlib.transformer import record

GREEDY = {"temperature": 0, "ignore_eos": True}


def wide_spec():
    """Heads of 64, as the tensor-core kernels want them; qk-norm, a window and a bias."""
    pairs = np.arange(0, 64, 2) / 64
    spec = tiny_spec()
    attention = replace(
        spec.layers[0].attention,
        head_dim=64,
        scale=0.125,
        qkv_bias=True,
        qk_norm="head",
        rope=RopeSpec(inv_freq=tuple((10_000.0**-pairs).tolist())),
    )
    first = replace(spec.layers[0], attention=attention)
    second = replace(first, attention=replace(attention, window=24))
    return replace(spec, layers=(first, second))


def spec_without_kernels():
    """Heads of a size that the tensor-core kernels are not compiled for."""
    spec = wide_spec()
    pairs = np.arange(0, 48, 2) / 48
    attention = replace(
        spec.layers[0].attention,
        head_dim=48,
        rope=RopeSpec(inv_freq=tuple((10_000.0**-pairs).tolist())),
    )
    return replace(spec, layers=(replace(spec.layers[0], attention=attention),))


def weights_of(program):
    """Random, of numbers that bf16 holds."""
    generator = np.random.default_rng(5)
    weights = {}
    for name, shape in program.weights.items():
        values = generator.standard_normal(shape) / np.sqrt(shape[-1])
        if len(shape) == 1:
            values = 0.1 * values + (0 if name.endswith("bias") else 1)
        weights[name] = to_values(to_bits(values, "bf16")).astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def program():
    return record(wide_spec())


def make_model(program, *, seed=0, device=None, spec=None, kv_cache="512 tokens", **options):
    weights = weights_of(program)

    def load(receiver, _):
        for name, values in weights.items():
            give = receiver.load_vector if values.ndim == 1 else receiver.load_array
            give(name, values)

    checkpoint = Checkpoint(
        name="wide",
        source=None,
        spec=spec or wide_spec(),
        program=program,
        load_weights=load,
        weight_bytes=0,
        tokenizer=None,
        chat_template=None,
        generation_config={},
        eos_token_ids=(),
        hash_weights=lambda: "wide",
    )
    config = EngineConfig(device=device or open_device(seed), kv_cache=kv_cache, **options)
    return Model(assemble(checkpoint, config))


def prompts():
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, length).tolist() for length in (40, 5, 1, 17)]


def assert_near(model, oracle, prompt, vocab_size):
    """Log-probabilities of the whole vocabulary at every position of a prompt."""
    logits = oracle.run({0: prompt}, all_logits=True).logits
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    options = {"max_tokens": 1, "prompt_logprobs": vocab_size, **GREEDY}
    rows = model.generate(prompt, **options).prompt_logprobs
    found = np.array([[row[token].logprob for token in range(vocab_size)] for row in rows[1:]])
    difference = (found - expected[:-1]) / logits.std()
    # Every buffer is rounded to 8 bits: two layers come to about 0.011.
    assert np.sqrt((difference**2).mean()) < 0.02
    assert np.abs(difference).max() < 0.1


def test_log_probabilities_are_near_those_of_float64(program):
    with make_model(program) as model:
        assert_near(
            model, ReferenceExecutor(program, weights_of(program)), prompts()[0], VOCAB_SIZE
        )


@pytest.mark.parametrize(
    "types",
    [
        ("Q4_0",),
        ("Q4_1", "Q8_0"),
        ("Q5_0", "Q4_0"),
        ("Q4_K", "Q6_K", "Q4_K"),
        ("F16", "BF16"),
        ("Q5_K", "F32", "Q8_0"),
    ],
    ids="-".join,
)
def test_weights_of_every_type_and_of_mixed_types(types, tmp_path):
    """Fused projections whose parts differ are segments; types without kernels become bf16."""
    path = tmp_path / "model.gguf"
    write_random_llama(path, *types)
    prompt = np.random.default_rng(2).integers(0, 256, 21).tolist()
    device = open_device(1)
    with Model.from_pretrained(path, device=device, kv_cache="64 tokens") as model:
        assert_near(model, reference_executor(path), prompt, QUANTIZED_VOCAB_SIZE)
    used = {name.split("_")[3] for name in device.launched if name.startswith("linear_m")}
    layouts = dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), "int4")
    layouts |= dict.fromkeys(("Q5_0", "Q8_0", "Q6_K"), "int8")
    assert used == {layouts.get(each, "bf16") for each in types}


def test_chunks_schedules_and_batch_mates_change_no_bit(program):
    def answers(prompts, **settings):
        with make_model(program, **settings) as model:
            completions = model.generate(prompts, max_tokens=4, logprobs=2, **GREEDY)
        return [
            [
                (token, row[token].logprob)
                for token, row in zip(each.token_ids, each.logprobs, strict=True)
            ]
            for each in completions
        ]

    expected = answers(prompts())
    assert answers(prompts()[:1]) == expected[:1]
    assert answers(prompts()[::-1], max_num_batched_tokens=9, seed=3) == expected[::-1]


def test_preempted_requests_give_the_same_bits(program):
    def answers(**settings):
        with make_model(program, **settings) as model:
            short = [[1], [2, 3], [4, 5, 6], [7], [8, 9], [10]]
            completions = model.generate(short, max_tokens=20, logprobs=1, **GREEDY)
            rows = [(each.token_ids, each.logprobs) for each in completions]
            return rows, model.stats()["preemptions"]

    expected, _ = answers()
    found, preemptions = answers(kv_cache="80 tokens", seed=2)
    assert preemptions > 0
    for (tokens, rows), (expected_tokens, expected_rows) in zip(found, expected, strict=True):
        assert tokens == expected_tokens
        for row, expected_row in zip(rows, expected_rows, strict=True):
            assert {token: value.logprob for token, value in row.items()} == {
                token: value.logprob for token, value in expected_row.items()
            }


def test_both_attention_kernels_and_both_products_were_used(program):
    device = open_device()
    config = {"max_num_batched_tokens": 64}
    with make_model(program, **config) as model:
        device = model._parts.config.device
        model.generate(prompts(), max_tokens=2, **GREEDY)
    for kernel in ("prefill_bf16_64", "decode_bf16_64", "decode_combine_bf16_64"):
        assert device.launched[f"attention_{kernel}"] > 0
    for kernel in ("linear_few_bf16_bf16_bf16", "linear_many_bf16_bf16_bf16"):
        assert device.launched[kernel] > 0
    for kernel in ("gated_few_bf16_bf16_silu", "gated_many_bf16_bf16_silu"):
        assert device.launched[kernel] > 0
    assert device.launched["lm_head_argmax_bf16_bf16"] > 0


@pytest.mark.parametrize("head_dim", [32, 112])
def test_heads_of_every_size_that_kernels_have(head_dim):
    spec = wide_spec()
    pairs = np.arange(0, head_dim, 2) / head_dim
    attention = replace(
        spec.layers[0].attention,
        head_dim=head_dim,
        rope=RopeSpec(inv_freq=tuple((10_000.0**-pairs).tolist())),
    )
    spec = replace(spec, layers=(replace(spec.layers[0], attention=attention),))
    program = record(spec)
    with make_model(program, spec=spec) as model:
        oracle = ReferenceExecutor(program, weights_of(program))
        assert_near(model, oracle, prompts()[0], VOCAB_SIZE)


def test_head_sizes_are_those_of_the_sources():
    for kind, sizes in HEAD_DIMS.items():
        names = KernelSources(source_folder()).files["attention_decode"]
        assert sizes == tuple(
            int(size)
            for size in re.findall(rf"^ATTENTION_DECODE\({kind}_(\d+),", names, re.MULTILINE)
        )


def test_a_tied_embedding_is_held_once_and_changes_no_bit(monkeypatch):
    spec = replace(wide_spec(), tied_embeddings=True, embedding_scale=8.0)
    program = record(spec)
    elements = {name: int(np.prod(shape)) for name, shape in program.weights.items()}
    answers, sizes = [], []
    for _ in range(2):
        device = open_device()
        with make_model(program, spec=spec, device=device) as model:
            completions = model.generate(prompts()[:3], max_tokens=4, logprobs=2, **GREEDY)
            answers.append([(each.token_ids, each.logprobs) for each in completions])
            sizes.append(model._engine._executor.info()["weight_bytes"])
        assert (device.launched["embedding_packed_bf16_bf16"] > 0) == (len(answers) == 1)
        monkeypatch.setattr(DeviceWeights, "_is_looked_up_packed", lambda *_: False)
    assert answers[0] == answers[1]
    assert sizes[1] - sizes[0] == 2 * elements["embed_tokens.weight"]


@pytest.mark.parametrize("types", [("Q8_0",), ("Q4_K",), ("Q6_K", "F16")], ids="-".join)
def test_a_quantized_embedding_stays_as_it_is_stored(types, tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write_random_llama(path, *types)
    answers, sizes = [], []
    for _ in range(2):
        with Model.from_pretrained(path, device=open_device(), kv_cache="64 tokens") as model:
            completion = model.generate([1, 200, 16], max_tokens=2, logprobs=2, **GREEDY)
            answers.append((completion.token_ids, completion.logprobs))
            sizes.append(model._engine._executor.info()["weight_bytes"])
        monkeypatch.setattr(DeviceWeights, "_is_looked_up_packed", lambda *_: False)
    assert answers[0] == answers[1]
    assert sizes[0] < sizes[1]


def test_heads_without_kernels_are_refused():
    spec = spec_without_kernels()
    known = "16, 32, 64, 80, 96, 112, 128"
    with pytest.raises(UnsupportedModelError, match=rf"heads of 48 .* know {known}"):
        make_model(record(spec), spec=spec)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_a_real_model_answers(precision):
    """SmolLM2: weights of Q4_1, Q6_K and Q8_0 through the int4 and int8 kernels, or dequantized."""
    path = real_model("smollm2")
    prompt, options = "The capital of France is", {"max_tokens": 3, "temperature": 0, "logprobs": 5}
    completions = []
    for device, each in (("cpu", "exact"), (open_device(), precision)):
        with Model.from_pretrained(
            path, device=device, precision=each, kv_cache="64 tokens", max_num_batched_tokens=16
        ) as model:
            completions.append(model.generate(prompt, **options))
    expected, found = completions
    assert found.text == expected.text
    assert found.text.startswith(" Paris")
    tolerance = 2e-4 if precision == "exact" else 0.15
    for token, value in found.logprobs[0].items():
        if token in expected.logprobs[0]:
            assert value.logprob == pytest.approx(
                expected.logprobs[0][token].logprob, abs=tolerance
            )
