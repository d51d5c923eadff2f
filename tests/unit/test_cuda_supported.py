"""What a device refuses, from a program alone."""

from types import SimpleNamespace

import pytest
from tests.checkpoints import DECODERS, ENCODERS, TINY

from inferlib.errors import UnsupportedModelError
from inferlib.executors.cuda_latent import head_product, latent_attention
from inferlib.executors.cuda_supported import refuse_unsupported
from inferlib.loading import load

DECODER = {"is_bidirectional": False, "has_lm_head": True}


@pytest.mark.parametrize("case", DECODERS)
def test_families_are_not_refused(case):
    refuse_unsupported(load(TINY / case).program)


@pytest.mark.parametrize("case", sorted(ENCODERS))
def test_what_has_no_logits_is_refused(case):
    with pytest.raises(UnsupportedModelError, match="no logits"):
        refuse_unsupported(load(TINY / case).program)


def test_an_op_that_has_no_kernel_is_refused_by_name():
    program = SimpleNamespace(ops=[("linear", {}), ("convolution", {})], **DECODER)
    with pytest.raises(UnsupportedModelError, match="'convolution'") as caught:
        refuse_unsupported(program)
    assert 'device="cpu"' in caught.value.hint


@pytest.mark.parametrize(("experts", "top_k"), [(513, 8), (64, 33)])
def test_a_mixture_that_is_too_large_is_refused_with_its_size(experts, top_k):
    program = SimpleNamespace(
        ops=[("moe", {"gate": "gate", "top_k": top_k})],
        weights={"gate": (experts, 8, 8)},
        **DECODER,
    )
    with pytest.raises(UnsupportedModelError, match=f"{top_k} of {experts} experts"):
        refuse_unsupported(program)


@pytest.mark.parametrize(("k_dim", "v_dim"), [(580, 512), (576, 516), (34, 24), (32, 22)])
def test_latents_of_other_widths_are_refused_with_theirs(k_dim, v_dim):
    group = SimpleNamespace(num_kv_heads=1, k_head_dim=k_dim, v_head_dim=v_dim, window=None)
    model = SimpleNamespace(program=SimpleNamespace(kv_groups=[group]))
    with pytest.raises(UnsupportedModelError, match=rf"{k_dim} \(K\) and {v_dim} \(V\)"):
        latent_attention(model, {"kv_group": 0, "num_heads": 4}, None)


@pytest.mark.parametrize(
    ("kind", "k", "passed"), [("bf16", 20, 8), ("bf16", 16, 4), ("f32", 18, 4), ("f32", 16, 2)]
)
def test_matrices_of_heads_that_cannot_be_loaded_by_fours_or_eights_are_refused(kind, k, passed):
    matrices = SimpleNamespace(count=2, shape=(16, k))
    weights = SimpleNamespace(stacked={"k_absorb": matrices})
    model = SimpleNamespace(kind=kind, device=None, weights=weights)
    op = {"weight": "k_absorb", "pass_through": passed}
    with pytest.raises(UnsupportedModelError, match=f"{k} elements of a head behind {passed}"):
        head_product(model, op)
