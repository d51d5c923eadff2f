"""Fused products in whole models: the same tokens and log-probabilities with and without."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cuda.launching import open_device
from tests.cuda.test_reduced_precision import GREEDY, make_model, prompts, wide_spec
from tests.quantized_checkpoints import write_random_llama

from inferlib import Model
from inferlib.executors import cuda_products
from inferlib.transformer import record

SEPARATE = {"GATED_ACTIVATIONS": frozenset(), "FUSED_LAYOUTS": frozenset()}


def answers(open_model, monkeypatch, *, is_fused):
    """Tokens drawn on the device, alone and together; log-probabilities; and what was launched."""
    with monkeypatch.context() as patch:
        for name, value in {} if is_fused else SEPARATE.items():
            patch.setattr(cuda_products, name, value)
        device = open_device(2)
        with open_model(device) as model:
            together = model.generate(prompts()[:3], max_tokens=6, **GREEDY)
            alone = model.generate(prompts()[3], max_tokens=3, logprobs=2, **GREEDY)
    tokens = [each.token_ids for each in (*together, alone)]
    return (tokens, alone.logprobs), device.launched


def number(launched, begin):
    return sum(count for name, count in launched.items() if name.startswith(begin))


def assert_equal_and_launched(open_model, monkeypatch, *, gated=True, head=True):
    expected, separate = answers(open_model, monkeypatch, is_fused=False)
    found, fused = answers(open_model, monkeypatch, is_fused=True)
    assert found == expected
    for kernels, is_wanted in ((("gated_few", "gated_many"), gated), (("lm_head_argmax_",), head)):
        for kernel in kernels:
            assert number(separate, kernel) == 0
            assert (number(fused, kernel) > 0) == is_wanted
    # With log-probabilities the logits are computed, too.
    assert number(fused, "act_and_mul") == (0 if gated else number(separate, "act_and_mul"))
    assert number(fused, "argmax_f32") < number(separate, "argmax_f32") or not head


@pytest.mark.parametrize(
    ("activation", "softcap", "gated"),
    [("silu", None, True), ("gelu_tanh", 3.0, True), ("gelu", None, False)],
)
def test_models_of_16_bit_floats(monkeypatch, activation, softcap, gated):
    spec = wide_spec()
    layers = tuple(
        replace(layer, mlp=replace(layer.mlp, activation=activation, bias=True))
        for layer in spec.layers
    )
    spec = replace(spec, layers=layers, final_softcap=softcap)
    program = record(spec)

    def open_model(device):
        return make_model(program, device=device, spec=spec, speculation="off")

    assert_equal_and_launched(open_model, monkeypatch, gated=gated)


@pytest.mark.parametrize(
    ("types", "gated"), [(("Q4_K", "Q6_K"), False), (("Q4_0",), True), (("Q8_0",), True)]
)
def test_models_of_quantized_weights(monkeypatch, tmp_path, types, gated):
    """Gate and up of two types are two products."""
    path = tmp_path / "model.gguf"
    write_random_llama(path, *types)

    def open_model(device):
        return Model.from_pretrained(
            path, device=device, kv_cache="256 tokens", speculation="off", precision="fast"
        )

    assert_equal_and_launched(open_model, monkeypatch, gated=gated)


def test_what_somebody_else_reads_is_written():
    """A row that needs its logits makes nobody else's drawn otherwise, nor lose them."""
    program = record(wide_spec())
    device = open_device(1)
    with make_model(program, device=device, speculation="off") as model:
        plain = {"max_tokens": 4, **GREEDY}
        alone = model.generate(prompts()[1], **plain).token_ids
        handles = [
            model.submit(prompts()[1], **plain),
            model.submit(prompts()[0], logprobs=2, **plain),
        ]
        assert handles[0].result().token_ids == alone
        assert len(handles[1].result().logprobs) == 4
        fused = number(device.launched, "lm_head_argmax_bf16")
        many = model.generate([prompts()[1]] * 9, **plain)  # more rows than the kernel has
        assert [each.token_ids for each in many] == [alone] * 9
        assert number(device.launched, "argmax_f32") > 0
        assert fused > 0
