"""Ctrl-C in a real Jupyter kernel: the cell ends with ``KeyboardInterrupt``, the next one works."""

from __future__ import annotations

import os
import time
from queue import Empty

import pytest
from tests.boundary.test_import import PACKAGE

jupyter_client = pytest.importorskip("jupyter_client", reason="`make test` installs nbclient")

pytestmark = [
    pytest.mark.filterwarnings("default"),  # of jupyter's
    pytest.mark.timeout(300),
]
SECONDS = 60
SETUP = """
from inferlib.testing import tiny_model
model = tiny_model(max_position_embeddings=500_000, kv_cache="500k tokens", threads=2)
LONG = dict(max_tokens=400_000, ignore_eos=True)
expected = model.generate("x", max_tokens=5, temperature=0).token_ids
"""
CELLS = {
    "generate": 'model.generate("x", **LONG)',
    "a list": 'model.generate(["x", "y"] * 8, **LONG)',
    "stream": 'for delta in model.stream("x", **LONG): pass',
    "await": 'await model.agenerate("x", **LONG)',
    "async stream": 'async for delta in model.astream("x", **LONG): pass',
    "load": "while True: tiny_model(num_layers=8).close()",
}
USABLE = """
import time
assert model.generate("x", max_tokens=5, temperature=0).token_ids == expected
end = time.monotonic() + 10
while (stats := model.stats())["running_sequences"] and time.monotonic() < end:
    time.sleep(0.001)
assert stats["free_blocks"] == stats["total_blocks"], stats
"""


class Kernel:
    """A kernel, and what becomes of the cells that it is given."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
        self.manager, self.client = jupyter_client.manager.start_new_kernel(
            kernel_name="python3", env=environment, startup_timeout=SECONDS
        )

    def run(self, code: str) -> dict[str, object]:
        """The kernel's reply to a cell."""
        return self.client.execute_interactive(
            code, timeout=SECONDS, store_history=False, output_hook=lambda _: None
        )["content"]

    def interrupt(self, code: str, after: float) -> dict[str, object]:
        """The reply to a cell that is interrupted ``after`` seconds of running."""
        message = self.client.execute(code, store_history=False, stop_on_error=False)
        while self._busy_with() != message:
            pass
        time.sleep(after)
        self.manager.interrupt_kernel()
        while True:
            reply = self.client.get_shell_msg(timeout=SECONDS)
            if reply["parent_header"].get("msg_id") == message:
                return reply["content"]

    def _busy_with(self) -> str | None:
        try:
            message = self.client.get_iopub_msg(timeout=SECONDS)
        except Empty:
            pytest.fail("the kernel does not answer")
        is_busy = message["content"].get("execution_state") == "busy"
        return message["parent_header"].get("msg_id") if is_busy else None

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel():
    kernel = Kernel()
    try:
        assert kernel.run(SETUP)["status"] == "ok"
        yield kernel
    finally:
        kernel.close()


def interrupt_and_go_on(kernel: Kernel, name: str, times: int) -> None:
    for turn in range(times):
        reply = kernel.interrupt(CELLS[name], after=0.02 + 0.003 * (turn % 20))
        # IPython cancels the task of a cell that awaits; its own error is the interrupt or that.
        assert reply["status"] == "error", (turn, reply)
        assert reply["ename"] in ("KeyboardInterrupt", "CancelledError"), (turn, reply)
        after = kernel.run(USABLE)
        assert after["status"] == "ok", (turn, after)


@pytest.mark.parametrize("name", CELLS)
def test_an_interrupted_cell_leaves_a_model_that_works(kernel, name):
    interrupt_and_go_on(kernel, name, times=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_a_hundred_times(kernel, name):
    interrupt_and_go_on(kernel, name, times=100)
