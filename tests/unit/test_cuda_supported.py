"""What a device refuses, from a program alone."""

from types import SimpleNamespace

import pytest
from tests.checkpoints import ENCODERS, TINY

from inferlib.errors import UnsupportedModelError
from inferlib.executors.cuda_supported import refuse_unsupported
from inferlib.loading import load

CASES = sorted({path.name for path in TINY.iterdir()} - ENCODERS)
DECODER = {"is_bidirectional": False, "has_lm_head": True}


@pytest.mark.parametrize("case", CASES)
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
