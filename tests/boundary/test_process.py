"""Life in the host's process: signals, fork, threads, event loops, the end of the interpreter."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.boundary.test_import import PACKAGE, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and fork")

LONG = 'model.generate("x", max_tokens=400_000, ignore_eos=True)'
LOAD = """
import asyncio, os, signal, sys, threading, time
# A shell's background job ignores SIGINT, and so would we.
signal.signal(signal.SIGINT, signal.default_int_handler)
import inferlib
from inferlib.testing import tiny_model
model = tiny_model(max_position_embeddings=500_000, kv_cache="500k tokens")
def free(): return model.stats()["free_blocks"] == model.stats()["total_blocks"]
def say(text): print(text, flush=True)
"""


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD + textwrap.dedent(code)],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt_when_it_says(process: subprocess.Popen[str], text: str, times: int = 1) -> str:
    """Send SIGINT ``times`` times, each after the process wrote ``text``; the rest it writes."""
    for _ in range(times):
        line = process.stdout.readline()
        assert line == f"{text}\n", (line, process.stderr.read())
        process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=50)
    finally:
        process.kill()  # one that hangs must not go on beside the other tests
    assert process.returncode == 0, err
    return out


class TestCtrlC:
    def test_it_interrupts_a_call_and_the_model_stays_usable(self):
        process = start(
            f"""
            for turn in range(5):
                try:
                    threading.Timer(0.05, say, ["running"]).start()
                    {LONG}
                except KeyboardInterrupt:
                    assert free()
                    assert model.generate("x", max_tokens=3).token_ids
                else:
                    raise AssertionError("not interrupted")
            say("usable")
            """
        )
        assert interrupt_when_it_says(process, "running", times=5) == "usable\n"

    def test_another_thread_goes_on_and_takes_over(self):
        process = start(
            f"""
            expected = model.generate("y", max_tokens=3000, temperature=0, ignore_eos=True)
            results = []
            def other():
                results.append(model.generate("y", max_tokens=3000, temperature=0, ignore_eos=True))
            thread = threading.Thread(target=other)
            def begin():
                thread.start()
                time.sleep(0.03)
                say("running")
            try:
                threading.Timer(0.02, begin).start()
                {LONG}
            except KeyboardInterrupt:
                thread.join()
                assert results[0].token_ids == expected.token_ids
                assert free()
                say("usable")
            """
        )
        assert interrupt_when_it_says(process, "running") == "usable\n"

    def test_a_follower_sees_it_too(self):
        process = start(
            f"""
            thread = threading.Thread(target=lambda: model.generate("y", max_tokens=2_000))
            thread.start()
            while not model.stats()["running_sequences"]:
                time.sleep(0.001)
            try:
                threading.Timer(0.05, say, ["running"]).start()
                {LONG}
            except KeyboardInterrupt:
                say("interrupted")
                thread.join()
                assert free()
            """
        )
        assert interrupt_when_it_says(process, "running") == "interrupted\n"

    def test_it_ends_a_stream(self):
        process = start(
            """
            stream = model.stream("x", max_tokens=400_000, ignore_eos=True)
            try:
                threading.Timer(0.05, say, ["running"]).start()
                for delta in stream:
                    pass
            except KeyboardInterrupt:
                assert list(stream) == []
                assert free()
                say("ended")
            """
        )
        assert interrupt_when_it_says(process, "running") == "ended\n"

    def test_it_cancels_asyncio(self):
        process = start(
            """
            async def main():
                asyncio.get_running_loop().call_later(0.05, say, "running")
                await model.agenerate("x", max_tokens=400_000, ignore_eos=True)
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                while not free():
                    time.sleep(0.001)
                say("cancelled")
            """
        )
        assert interrupt_when_it_says(process, "running") == "cancelled\n"


class TestFork:
    def test_a_child_gets_an_error_at_once_and_ends_cleanly(self):
        out = run(
            LOAD
            + textwrap.dedent(
                """
                model.generate("x", max_tokens=5)
                stream, handle = model.stream("x"), model.submit("x")
                next(stream)
                pid = os.fork()
                if pid == 0:
                    calls = [
                        lambda: model.generate("x"), lambda: next(stream), lambda: handle.result(),
                        lambda: model.stats(), lambda: asyncio.run(model.agenerate("x")),
                        lambda: model.submit("x"),
                    ]
                    for call in calls:
                        try:
                            call()
                        except inferlib.ForkedProcessError as error:
                            assert "spawn" in str(error)
                        else:
                            os._exit(1)
                    model.close()
                    del stream, handle, model
                    sys.exit(0)  # through the interpreter's own end
                assert os.waitpid(pid, 0)[1] == 0
                assert handle.result().token_ids
                stream.close()
                assert free()
                say("parent usable")
                """
            )
        )
        assert out == "parent usable\n"

    def test_a_fork_in_the_middle_of_a_step_is_no_hang(self):
        out = run(
            LOAD
            + textwrap.dedent(
                """
                thread = threading.Thread(
                    target=lambda: model.generate("x", max_tokens=3_000, ignore_eos=True))
                thread.start()
                for _ in range(20):
                    pid = os.fork()
                    if pid == 0:
                        try:
                            model.generate("x")
                        except inferlib.ForkedProcessError:
                            os._exit(0)
                        os._exit(1)
                    assert os.waitpid(pid, 0)[1] == 0
                thread.join()
                say("fine")
                """
            )
        )
        assert out == "fine\n"

    def test_a_model_loaded_after_the_fork_works(self):
        out = run(
            LOAD
            + textwrap.dedent(
                """
                model.generate("x", max_tokens=5)
                pid = os.fork()
                if pid == 0:
                    with tiny_model(threads=2) as own:
                        own.generate("x", max_tokens=5)
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
                say("fine")
                """
            )
        )
        assert out == "fine\n"


class TestTheEnd:
    @pytest.mark.parametrize(
        "code",
        [
            'stream = model.stream("x", max_tokens=1000); next(stream)',
            'handle = model.submit("x", max_tokens=1000)',
            "cycle = [model]; cycle.append(cycle); del model",
            'asyncio.run(model.agenerate("x", max_tokens=20))',
            'loop = asyncio.new_event_loop(); task = loop.create_task(model.agenerate("x"));'
            "loop.run_until_complete(asyncio.sleep(0.01)); task._log_destroy_pending = False",
            'threading.Thread(target=lambda: model.generate("x", max_tokens=2000)).start()',
            'threading.Thread(target=lambda: model.generate("x", max_tokens=10**5), daemon=True)'
            ".start(); time.sleep(0.05)",
            'model = tiny_model(driver="thread"); model.submit("x", max_tokens=900)',
            'model = tiny_model(driver="thread"); h = model.submit("x", max_tokens=900)',
        ],
    )
    def test_the_interpreter_ends_whatever_still_runs(self, code):
        process = start(f'{code}\nsay("end")')
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, err
        assert out == "end\n"
        assert err == ""


def test_the_gil_is_released_during_a_step():
    out = run(
        LOAD
        + textwrap.dedent(
            """
            ticks, stop = 0, False
            def tick():
                global ticks
                while not stop:
                    ticks += 1
                    time.sleep(0)
            sys.setswitchinterval(1000)  # nobody is made to let go
            model = tiny_model(num_layers=16, max_num_batched_tokens=1000)
            thread = threading.Thread(target=tick)
            thread.start()
            executor, ticks_in_run = model._engine._executor, []
            class Watch:
                def run(self, batch):
                    before = ticks
                    output = executor.run(batch)
                    ticks_in_run.append(ticks - before)
                    return output
                def __getattr__(self, name):
                    return getattr(executor, name)
            model._engine._executor = Watch()
            model.generate(list(range(200)) * 4, max_tokens=3, ignore_eos=True)
            stop = True
            thread.join()
            assert ticks_in_run[0] > 10, ticks_in_run
            say("released")
            """
        )
    )
    assert out == "released\n"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_file_descriptors_and_threads_stay_flat():
    out = run(
        LOAD
        + textwrap.dedent(
            """
            def counts():
                time.sleep(0.1)  # the system lists a thread a little longer than Python
                return [len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task")]
            def use():
                tiny_model(threads=2).generate("x", max_tokens=2)
                asyncio.run(model.agenerate("x", max_tokens=2))
                while threading.active_count() > 1:
                    time.sleep(0.001)
            for _ in range(3):
                use()
            before = counts()
            for _ in range(20):
                use()
            assert counts() == before, (counts(), before)
            say("flat")
            """
        )
    )
    assert out == "flat\n"
