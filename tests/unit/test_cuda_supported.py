"""What a device refuses, from a program alone."""

import pytest
from tests.checkpoints import CPU_ONLY, TINY

from inferlib.errors import UnsupportedModelError
from inferlib.executors.cuda_supported import refuse_unsupported
from inferlib.loading import load


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("mixtral", "the op 'moe'"),
    ],
)
def test_an_op_that_has_no_kernel_is_refused_by_name(case, what):
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        refuse_unsupported(load(TINY / case).program)
    assert 'device="cpu"' in caught.value.hint


@pytest.mark.parametrize(
    "case", ["llama", "gemma2", "phi3", "smollm3", "gpt2", "gpt-neox", "granite"]
)
def test_models_of_known_ops_are_not_refused(case):
    assert case not in CPU_ONLY
    refuse_unsupported(load(TINY / case).program)
