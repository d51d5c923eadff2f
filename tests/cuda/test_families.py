"""Every family that the CPU runs, a device runs: the same tokens, the same bits in any batch.

The cases are all tiny checkpoints, and every architecture has one: a family that gets no CUDA
kernels fails here.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.checkpoints import DECODERS, ENCODERS, TINY, reference_executor
from tests.cuda.launching import is_gpu, open_device
from tests.cuda.test_reduced_precision import assert_near
from tests.cuda_emulator.device import EmulatedDevice
from tests.quantized_checkpoints import VOCAB_SIZE, write_random_deepseek, write_random_llama

from inferlib import Model
from inferlib.architectures import ARCHITECTURES, Fields, architecture_of_config
from inferlib.checkpoint_files import read_json

# The programs of files from transformers 4 are those of files from version 5.
CASES = [case for case in DECODERS if not case.endswith("-config4")]
MIXTURES = {"mixtral", "qwen3-moe", "gpt-oss", "deepseek-v2", "deepseek-v3"}
GREEDY = {"temperature": 0, "ignore_eos": True}
# Below this gap between the two best logits, either token is right from there on.
SMALL_MARGIN = 1e-3


def prompts_of(case):
    return [ids.tolist() for ids in np.load(TINY / case / "reference.npz")["input_ids"]]


def on_device(case, *, seed=0, device=None, **options):
    device = device or open_device(seed)
    return Model.from_pretrained(TINY / case, device=device, kv_cache="512 tokens", **options)


def answers(model, prompts, **options):
    """Tokens and log-probabilities, bit by bit."""
    completions = model.generate(prompts, **{"max_tokens": 5, "logprobs": 2, **GREEDY, **options})
    return [
        [
            (token, *((other, row[other].logprob) for other in sorted(row)))
            for token, row in zip(each.token_ids, each.logprobs, strict=True)
        ]
        for each in completions
    ]


def test_every_architecture_has_a_case():
    found = {
        architecture_of_config(Fields(read_json(TINY / case / "config.json"), source=case)).name
        for case in (*CASES, *ENCODERS)
    }
    assert found == {architecture.name for architecture in ARCHITECTURES}


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_in_chunks_are_those_of_the_cpu_executor(case):
    """Both prompts together, at most 13 tokens in a step, in a shuffled schedule."""
    prompts, options = prompts_of(case), {"max_tokens": 6, "logprobs": 2, **GREEDY}
    with Model.from_pretrained(
        TINY / case, threads=1, precision="exact", kv_cache="512 tokens"
    ) as model:
        expected = model.generate(prompts, **options)
    with on_device(case, seed=3, precision="exact", max_num_batched_tokens=13) as model:
        found = model.generate(prompts, **options)
        assert model.stats()["device"].startswith("cuda")
    for ours, theirs in zip(found, expected, strict=True):
        for token, wanted, row in zip(
            ours.token_ids, theirs.token_ids, theirs.logprobs, strict=True
        ):
            if token != wanted:
                first, second = sorted((each.logprob for each in row.values()), reverse=True)[:2]
                assert first - second < SMALL_MARGIN
                break


@pytest.mark.parametrize("case", CASES)
def test_in_reduced_precision_chunks_and_schedules_change_no_bit(case):
    prompts = prompts_of(case)
    with on_device(case) as model:
        expected = answers(model, prompts)
        # Without log-probabilities the device draws.
        drawn = model.generate(prompts, max_tokens=5, **GREEDY)
        details = model.stats()["details"]
    tokens = [[token for token, *_ in rows] for rows in expected]
    assert [each.token_ids for each in drawn] == tokens
    assert details["graphs"] > 0
    with on_device(case, seed=5, max_num_batched_tokens=7) as model:
        assert answers(model, prompts[::-1]) == expected[::-1]
        assert answers(model, prompts[:1]) == expected[:1]


@pytest.mark.parametrize("case", CASES)
def test_reduced_precision_is_near_transformers(case):
    golden = np.load(TINY / case / "reference.npz")
    logits = golden["logits"].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    size = logits.shape[-1]
    with on_device(case) as model:
        completions = model.generate(prompts_of(case), max_tokens=1, prompt_logprobs=size, **GREEDY)
    found = np.array(
        [
            [[row[token].logprob for token in range(size)] for row in each.prompt_logprobs[1:]]
            for each in completions
        ]
    )
    errors = np.sqrt((((found - expected[:, :-1]) / logits.std()) ** 2).mean(axis=-1))
    assert np.median(errors) < 0.03
    # An expert that wins by less than a rounding is another one, and later rows attend to that row.
    assert np.quantile(errors, 0.6 if case in MIXTURES else 1) < 0.06


@pytest.mark.parametrize("case", sorted(MIXTURES))
def test_mixtures_have_the_same_bits_on_sm_90(case):
    """Its router and attention go through other products; experts do not."""
    if is_gpu():
        pytest.skip("about the emulator")
    prompts = prompts_of(case)
    found = []
    for architecture in ("sm_80", "sm_90"):
        with on_device(case, device=EmulatedDevice(architecture=architecture)) as model:
            found.append(answers(model, prompts))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("types", "kernels"),
    [
        (("Q4_K",), {"moe_gated_bf16_int4_silu", "moe_linear_bf16_int4"}),
        (("Q8_0", "Q6_K"), {"moe_linear_bf16_int8"}),
        (
            ("F16", "Q4_0", "BF16"),
            {"moe_gated_bf16_bf16_silu", "moe_linear_bf16_bf16", "moe_linear_bf16_int4"},
        ),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_experts_of_quantized_and_of_mixed_types(types, kernels, tmp_path):
    """Where gate and up differ they are two products, and the activation is one of its own."""
    path = tmp_path / "model.gguf"
    write_random_llama(path, *types, num_experts=5)
    prompt = np.random.default_rng(2).integers(0, 256, 21).tolist()
    device = open_device(1)
    with Model.from_pretrained(path, device=device, kv_cache="64 tokens") as model:
        assert_near(model, reference_executor(path), prompt, VOCAB_SIZE)
    assert {name for name in device.launched if name.startswith(("moe_g", "moe_l"))} == kernels


@pytest.mark.parametrize(
    ("types", "kernels"),
    [
        (("Q8_0",), {"head_linear_bf16_int8"}),
        (("Q4_0", "Q5_1", "F16"), {"head_linear_bf16_int4", "head_linear_bf16_bf16"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_latent_attention_of_quantized_matrices(types, kernels, tmp_path):
    """What has no packed layout is held as bf16, as other matrices are."""
    path = tmp_path / "model.gguf"
    write_random_deepseek(path, *types)
    prompt = np.random.default_rng(2).integers(0, 256, 21).tolist()
    logits = reference_executor(path).run({0: prompt}, all_logits=True).logits
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def errors(device, **settings):
        settings |= {"device": device, "kv_cache": "64 tokens"}
        options = {"max_tokens": 1, "prompt_logprobs": VOCAB_SIZE, **GREEDY}
        with Model.from_pretrained(path, **settings) as model:
            rows = model.generate(prompt, **options).prompt_logprobs[1:]
        found = np.array([[row[token].logprob for token in range(VOCAB_SIZE)] for row in rows])
        return np.sqrt((((found - expected[:-1]) / logits.std()) ** 2).mean(axis=1))

    device = open_device(1)
    assert errors(device, precision="exact").max() < 2e-5
    assert device.launched["head_linear_f32_f32"]
    device = open_device(1)
    found = errors(device)
    # As above, a row may have other experts, and later rows attend to it.
    assert np.median(found) < 0.03
    assert np.quantile(found, 0.6) < 0.06
    launched = {name for name in device.launched if name.startswith(("head_", "attention"))}
    assert launched == kernels | {"attention_latent_bf16"}
