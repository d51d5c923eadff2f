"""A device refuses what it has no kernel for; which ops, says ``unit/test_cuda_supported.py``."""

import pytest
from tests.checkpoints import TINY
from tests.cuda_emulator.device import EmulatedDevice

from inferlib import Model
from inferlib.errors import UnsupportedModelError


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("mixtral", "the op 'moe'"),
    ],
)
def test_a_model_with_an_op_that_has_no_kernel_is_refused_at_load(case, what):
    with pytest.raises(UnsupportedModelError, match=what):
        Model.from_pretrained(TINY / case, device=EmulatedDevice(), precision="exact")
