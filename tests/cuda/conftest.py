"""Where kernels run: ``--device=gpu`` (``make test-cuda``) takes the first GPU, not the emulator.

For the emulator, kernels are compiled once, on all cores, before the first test that may need them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cuda import launching
from tests.cuda_emulator.build import compile_all
from tests.cuda_emulator.device import EmulatedDevice

from inferlib import InferlibError
from inferlib.devices import register_device

HERE = Path(__file__).parent
EMULATOR_ONLY = {
    *(
        "test_emulator",
        "test_emulated_hopper",
        "test_planted_bugs",
        "test_cupy_device",
        "test_cuda_steps",
    ),
    *("test_cuda_memory", "test_device_choice", "test_kernel_choices", "test_bench_cuda"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known only where this folder is given: elsewhere the kernels are emulated."""
    parser.addoption("--device", choices=("emulated", "gpu"), default="emulated")


def pytest_configure(config: pytest.Config) -> None:
    """Choose before anything is launched; ``device="cuda-emulated"`` is known to these tests."""
    register_device("cuda-emulated", EmulatedDevice)
    if config.getoption("--device", default="emulated") == "gpu":
        try:
            launching.use_gpu()
        except InferlibError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_collection_finish(session: pytest.Session) -> None:
    """Outside of any test, since the first compilation may take longer than a test may."""
    if any(HERE in item.path.parents for item in session.items) and not launching.is_gpu():
        compile_all()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The emulator's own tests say nothing of a GPU."""
    if launching.is_gpu() and item.path.stem in EMULATOR_ONLY:
        pytest.skip("about the emulator")
