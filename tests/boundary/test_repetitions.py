"""What can hang once in a hundred times: forks, spawned children, ends, cycles, callbacks.

Three times each in the ordinary suite, a hundred times in the slow one.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from tests.boundary.test_import import PACKAGE
from tests.boundary.test_process import LOAD
from tests.checkpoints import TINY

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and fork")

FEW, MANY = 3, 100
CODE = {
    "a fork in the middle of steps": """
        thread = threading.Thread(
            target=lambda: model.generate("x", max_tokens=20 * TIMES, ignore_eos=True))
        thread.start()
        for _ in range(TIMES):
            pid = os.fork()
            if pid == 0:
                try:
                    model.generate("x")
                except inferlib.ForkedProcessError:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
        thread.join()
        assert free()
        """,
    "a prefork server: children load models of their own": """
        expected = model.generate("x", max_tokens=5, temperature=0).token_ids
        children = []
        for _ in range(TIMES):
            pid = os.fork()
            if pid == 0:
                with tiny_model(threads=2) as own:
                    same = own.generate("x", max_tokens=5, temperature=0).token_ids == expected
                os._exit(0 if same else 1)
            children.append(pid)
            if len(children) == 4:
                assert all(os.waitpid(child, 0)[1] == 0 for child in children)
                children.clear()
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        """,
    "a forked child that ends through the interpreter": """
        stream, handle = model.stream("x", max_tokens=50), model.submit("y", max_tokens=50)
        next(stream)
        for _ in range(TIMES):
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stream.close()
        handle.cancel()
        assert free()
        """,
    "models in reference cycles, collected by another thread": """
        import gc
        for _ in range(TIMES):
            other = tiny_model(threads=2)
            stream = other.stream("x", max_tokens=100, ignore_eos=True)
            next(stream)
            cycle = [other, stream, other.submit("y", max_tokens=100)]
            cycle.append(cycle)
            del other, stream, cycle
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join()
        assert threading.active_count() == 1
        """,
    "iterators that are abandoned in other threads": """
        for _ in range(TIMES):
            streams = [model.stream("x", max_tokens=100, ignore_eos=True) for _ in range(4)]
            next(streams[0])
            thread = threading.Thread(target=streams.clear)
            thread.start()
            thread.join()
        assert free()
        """,
    "signal handlers that cancel and that wait": """
        errors = []
        def handler(*_):
            handle.cancel()
            try:
                model.generate("x", max_tokens=1)
            except RuntimeError as error:
                errors.append(error)
        signal.signal(signal.SIGALRM, handler)
        for turn in range(TIMES):
            handle = model.submit("x", max_tokens=100_000, ignore_eos=True)
            signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0003 * (turn % 30))
            assert handle.result().finish_reason == "abort"
        assert free()
        """,
    "finalizers that use the model": """
        import gc
        class Final:
            def __init__(self):
                self.me = self
            def __del__(self):
                try:
                    model.submit("late", max_tokens=2).cancel()
                    model.generate("late", max_tokens=1)
                except RuntimeError:
                    pass
        gc.set_threshold(50)
        for _ in range(TIMES):
            for _ in range(20):
                Final()
            model.generate(["x", "y"], max_tokens=20)
        assert free()
        """,
    "event loops that end with requests": """
        async def begin():
            tasks = [asyncio.ensure_future(model.agenerate("x", max_tokens=500)) for _ in range(3)]
            await asyncio.sleep(0.001)
        for _ in range(TIMES):
            asyncio.run(begin())
        while not free():
            time.sleep(0.001)
        while threading.active_count() > 1:
            time.sleep(0.001)
        """,
    "two threads, a loop and Ctrl-C": """
        for turn in range(TIMES):
            threads = [
                threading.Thread(target=lambda: model.generate("y", max_tokens=40)),
                threading.Thread(target=lambda: asyncio.run(model.agenerate("z", max_tokens=40))),
            ]
            for thread in threads:
                thread.start()
            try:
                threading.Timer(0.002 * (turn % 10), signal.raise_signal, [signal.SIGINT]).start()
                model.generate("x", max_tokens=400_000, ignore_eos=True)
            except KeyboardInterrupt:
                pass
            for thread in threads:
                thread.join()
            while threading.active_count() > 1:
                time.sleep(0.0001)
        assert free()
        """,
}
SPAWN = """
import multiprocessing, sys
import inferlib
def answer(model, queue):
    with model:
        queue.put(model.generate([3, 1, 4], max_tokens=5, temperature=0).token_ids)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    model = inferlib.Model.from_pretrained({path!r}, threads=1, max_model_len=64)
    expected = model.generate([3, 1, 4], max_tokens=5, temperature=0).token_ids
    for _ in range({times}):
        queue = context.Queue()
        child = context.Process(target=answer, args=(model, queue))
        child.start()
        assert queue.get(timeout=60) == expected
        child.join(60)
        assert child.exitcode == 0
"""
ENDS = [
    'stream = model.stream("x", max_tokens=1000); next(stream)',
    'threading.Thread(target=lambda: model.generate("x", max_tokens=300)).start()',
    'threading.Thread(target=lambda: model.generate("x", max_tokens=10**5), daemon=True).start()',
    'model = tiny_model(driver="thread", threads=2); h = model.submit("x", max_tokens=900)',
    "cycle = [model]; cycle.append(cycle); del model",
]


def run_in_fresh_interpreter(*arguments: str) -> None:
    process = subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stderr[-2000:]


def repeat(name: str, times: int) -> None:
    run_in_fresh_interpreter("-c", f"TIMES = {times}\n" + LOAD + textwrap.dedent(CODE[name]))


def spawn(folder, times: int) -> None:
    script = folder / "spawning.py"
    script.write_text(SPAWN.format(path=str(TINY / "llama"), times=times), encoding="utf8")
    run_in_fresh_interpreter(str(script))


@pytest.mark.parametrize("name", CODE)
def test_it_does_not_hang(name):
    repeat(name, FEW)


def test_a_model_can_be_sent_to_a_spawned_process(tmp_path):
    spawn(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", CODE)
def test_it_does_not_hang_in_a_hundred_times(name):
    repeat(name, MANY)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_hundred_spawned_processes(tmp_path):
    spawn(tmp_path, MANY)


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("code", ENDS)
def test_the_interpreter_ends_a_hundred_times(code):
    for _ in range(MANY):
        run_in_fresh_interpreter("-c", LOAD + code)
