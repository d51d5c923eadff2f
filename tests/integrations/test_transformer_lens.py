"""The driver for TransformerLens, against the package's own ``validate_driver``.

The package is installed without what it depends on: torch is 2 GB. Its driver protocol and its
configuration are run as they are; torch is a name there, and stands in as one. Where torch is
installed the whole package is used, and the last tests run its bridge.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from inferlib import ClosedError, RequestError
from inferlib.testing import tiny_model

HOST = "transformer_lens"
OURS = "inferlib.integrations.transformer_lens"
IDS = [72, 101, 108, 108, 111]


def folder():
    """Of the installed package."""
    spec = importlib.util.find_spec(HOST)
    if spec is None:
        pytest.skip("`make test` installs transformer_lens")
    return Path(spec.submodule_search_locations[0])


def constant(file, name):
    """A number that a file of the package assigns."""
    for node in ast.parse(file.read_text("utf8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return ast.literal_eval(value)
            case ast.AnnAssign(target=ast.Name(id=found), value=value) if found == name:
                return ast.literal_eval(value)
    raise AssertionError(f"{file} has no {name}")


def without_torch(root):
    """Modules that let the driver protocol be imported; all else of the package stays away."""

    def module(name, path=None, **values):
        made = ModuleType(name)
        vars(made).update(values)
        if path is not None:
            made.__path__ = [str(path)]
        return made

    activations = root / "utilities" / "activation_functions.py"
    modules = [
        module("torch", dtype=type("dtype", (), {}), float32="float32", Tensor=SimpleNamespace),
        module(HOST, root),
        module(f"{HOST}.model_bridge", root / "model_bridge"),
        module(f"{HOST}.utilities", root / "utilities"),
        module(
            f"{HOST}.utilities.activation_functions",
            SOFTCAP_DISABLED=constant(activations, "SOFTCAP_DISABLED"),
        ),
    ]
    return {each.__name__: each for each in modules}


@pytest.fixture(scope="module")
def host():
    """The package's driver protocol and our module."""
    root = folder()
    before = dict(sys.modules)
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        sys.modules.update(without_torch(root))
    try:
        yield SimpleNamespace(
            has_torch=has_torch,
            protocol=importlib.import_module(f"{HOST}.model_bridge.driver_protocol"),
            ours=importlib.import_module(OURS),
        )
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in (HOST, "torch") or name.startswith(OURS):
                del sys.modules[name]


@pytest.fixture(scope="module")
def model():
    with tiny_model(num_layers=2) as model:
        yield model


@pytest.fixture(scope="module")
def driver(host, model):
    return host.ours.InferlibDriver(model)


def test_the_driver_conforms(host, driver):
    host.protocol.validate_driver(driver)
    host.protocol.validate_driver(driver, after_bridge_construction=True)
    assert isinstance(driver, host.protocol.Driver)
    assert driver.provides_sequence_logits is True
    assert driver.architecture == "LlamaForCausalLM"


@pytest.mark.parametrize(
    "fault",
    [
        {"non_fireable_hook_points": frozenset({"blocks.0.hook_out"})},
        {"supported_hook_points": {"blocks.0.hook_out"}},
        {"provides_sequence_logits": None},
        {"bridge_config": None},
        {"_supported_features": frozenset({"magic"})},
        {"close": None},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_what_does_not_conform_is_found(host, model, fault):
    driver = host.ours.InferlibDriver(model)
    vars(driver).update(fault)
    with pytest.raises(TypeError):
        host.protocol.validate_driver(driver)


def test_forward_has_the_parameters_of_the_protocol(host):
    wanted = inspect.signature(host.protocol.Driver.forward).parameters
    found = inspect.signature(host.ours.InferlibDriver.forward).parameters
    kinds = {name: (entry.kind, entry.default) for name, entry in found.items()}
    for name, entry in wanted.items():
        if entry.kind is not inspect.Parameter.VAR_KEYWORD:
            assert kinds[name] == (entry.kind, entry.default), name


def test_features_are_said_as_they_are(host, driver, model):
    features = {name for name in host.protocol.KNOWN_FEATURES if driver.supports(name)}
    assert features == {"weight_access"}
    assert np.array_equal(driver.weight("norm.weight"), model.weight("norm.weight"))


def test_the_configuration_describes_the_model(driver):
    config = driver.bridge_config
    assert (config.d_model, config.n_layers, config.n_heads, config.d_head) == (64, 2, 4, 16)
    assert (config.n_key_value_heads, config.d_vocab, config.d_mlp) == (2, 258, 128)
    assert (config.n_ctx, config.act_fn, config.gated_mlp) == (1024, "silu", True)
    assert config.attn_scale == pytest.approx(4)


def test_hooks_have_the_names_of_the_bridge(driver):
    assert {
        *("embed.hook_out", "ln_final.hook_normalized", "ln_final.hook_out", "unembed.hook_out"),
        *("blocks.1.hook_in", "blocks.1.ln2.hook_in", "blocks.1.hook_out"),
        *("blocks.1.attn.hook_out", "blocks.1.mlp.hook_out", "blocks.1.mlp.hook_post"),
        *("blocks.1.attn.hook_z", "blocks.1.attn.hook_rot_q", "blocks.1.attn.hook_v"),
    } <= driver.supported_hook_points
    assert "blocks.0.attn.hook_pattern" in driver.non_fireable_hook_points


def test_captures_and_logits_are_the_models(driver, model):
    names = sorted(driver.supported_hook_points)
    result = driver.forward(np.array([IDS]), capture=tuple(names))
    assert sorted(result.captured) == names
    whole = model.forward(IDS, capture="*", logits=True)
    assert np.array_equal(result.logits[0], whole.logits)
    assert np.array_equal(result.captured["unembed.hook_out"], result.logits)
    assert np.array_equal(
        result.captured["blocks.0.hook_out"][0], whole["blocks.0.hook_resid_post"]
    )
    assert result.captured["blocks.0.attn.hook_rot_k"].shape == (1, 5, 2, 16)
    assert result.captured["blocks.0.attn.hook_z"].shape == (1, 5, 4, 16)
    assert result.new_tokens.tolist() == [[int(whole.logits[-1].argmax())]]
    for array in (result.logits, *result.captured.values()):
        assert isinstance(array, np.ndarray)
        assert array.shape[:2] == (1, 5)
        assert array.flags.writeable


def test_the_older_names_are_understood(driver, model):
    result = driver.forward(IDS, capture=("blocks.0.hook_resid_post",), return_logits=False)
    assert result.logits is None
    assert result.new_tokens is None
    found = result.captured["blocks.0.hook_resid_post"]
    assert np.array_equal(
        found[0], model.forward(IDS, capture="blocks.0.*post")["blocks.0.hook_resid_post"]
    )


def test_rows_of_a_batch_are_what_they_are_alone(driver):
    ids = np.array([[0, 0, 65, 66, 67], [72, 101, 108, 108, 111], [70, 71, 72, 0, 0]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    hook = "blocks.1.hook_out"
    result = driver.forward(ids, capture=(hook,), attention_mask=mask)
    for row, marked, logits, stream in zip(
        ids, mask == 1, result.logits, result.captured[hook], strict=True
    ):
        alone = driver.forward(row[marked], capture=(hook,))
        assert np.array_equal(logits[marked], alone.logits[0])
        assert np.array_equal(stream[marked], alone.captured[hook][0])
        assert np.isneginf(logits[~marked]).all()
        assert not stream[~marked].any()


def test_tokens_are_drawn_greedily(driver, model):
    result = driver.forward([IDS, IDS[::-1]], max_new_tokens=4, return_logits=False)
    expected = model.generate([IDS, IDS[::-1]], temperature=0, max_tokens=4, ignore_eos=True)
    assert result.new_tokens.tolist() == [each.token_ids for each in expected]
    assert result.raw_output is None
    assert driver.forward(IDS, max_new_tokens=0).new_tokens is None


def test_interventions_are_refused_and_not_left_out(driver):
    with pytest.raises(NotImplementedError) as caught:
        driver.forward(IDS, intervene={"blocks.0.hook_out": {"op": "suppress"}})
    assert isinstance(caught.value, RequestError)
    assert caught.value.field == "intervene"
    assert driver.forward(IDS, intervene={}).logits is not None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "input_ids"),
        ({"input_ids": [[1, 2], [3]]}, "input_ids"),
        ({"input_ids": [0.5]}, "input_ids"),
        ({"input_ids": []}, "input_ids"),
        ({"input_ids": IDS, "capture": ("blocks.0.attn.hook_pattern",)}, "capture"),
        ({"input_ids": IDS, "attention_mask": [1]}, "attention_mask"),
        ({"input_ids": IDS, "attention_mask": [1, 0, 1, 1, 1]}, "attention_mask"),
        ({"input_ids": IDS, "attention_mask": [0] * 5}, "attention_mask"),
        ({"input_ids": IDS, "max_new_tokens": -1}, "max_new_tokens"),
        ({"input_ids": IDS, "use_cache": True}, "use_cache"),
    ],
)
def test_what_cannot_be_is_refused_by_name(driver, arguments, field):
    with pytest.raises(RequestError) as caught:
        driver.forward(**arguments)
    assert caught.value.field == field


def test_close_leaves_a_model_that_was_given_open(host, model):
    driver = host.ours.InferlibDriver(model)
    driver.close()
    driver.close()
    assert not model.is_closed
    with pytest.raises(ClosedError):
        driver.forward(IDS)
    with pytest.raises(ClosedError):
        driver.weight("norm.weight")
    with pytest.raises(RequestError) as caught:
        host.ours.InferlibDriver(model, precision="exact")
    assert caught.value.field == "precision"


# With torch, which `make test` does not install


@pytest.fixture
def bridge(host, model):
    if not host.has_torch:
        pytest.skip("torch is not installed: 2 GB for two tests")
    return importlib.import_module("torch"), host.ours.remote_bridge(model)


@pytest.mark.filterwarnings("default")
def test_a_bridges_cache_has_both_names_and_our_bits(bridge, model):
    torch, bridge = bridge
    logits, cache = bridge.run_with_cache(torch.tensor([IDS]))
    whole = model.forward(IDS, capture="*", logits=True)
    assert np.array_equal(logits[0].numpy(), whole.logits)
    for name in ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out"):
        found = cache[f"blocks.1.{name}"][0].numpy()
        assert np.array_equal(found, whole[f"blocks.1.{name}"]), name
    assert np.array_equal(cache["resid_post", 0][0].numpy(), whole["blocks.0.hook_resid_post"])


@pytest.mark.filterwarnings("default")
def test_a_bridge_gives_a_loss(bridge):
    torch, bridge = bridge
    ids = torch.tensor([IDS])
    logits, loss = bridge.forward(ids, return_type="both")
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
