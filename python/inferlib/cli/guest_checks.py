"""What ``selfcheck`` runs, each in an interpreter of its own: ``guest_checks.py PACKAGE CHECK``.

Nothing of the package, and nothing heavy, is imported before a check asks for it, by the name that
it has in this process. A check returns what it found, as text, or raises ``Problem``.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HEAVY = {
    *("torch", "cupy", "transformers", "tqdm", "asyncio", "multiprocessing", "ssl", "socket"),
    *("ctypes", "importlib.metadata"),
}
LONG = {"max_tokens": 400_000, "ignore_eos": True}
SHORT = {"max_tokens": 16, "temperature": 0, "ignore_eos": True}
MOST_GROWTH_BYTES = 4 << 20


class Problem(Exception):  # noqa: N818  # it is one
    """Something is not as promised."""


def imports(package: str) -> str:
    """Importing costs little and starts nothing."""
    import numpy as np  # the only requirement: not ours

    del np
    before, memory = set(sys.modules), _resident_bytes()
    start = time.perf_counter()
    importlib.import_module(package)
    seconds = time.perf_counter() - start
    added = set(sys.modules) - before
    if HEAVY & added:
        raise Problem(f"it imports {', '.join(sorted(HEAVY & added))}")
    if threading.active_count() != 1:
        raise Problem(f"it starts threads: {threading.enumerate()}")
    grown = (_resident_bytes() - memory) / 2**20
    return f"{1000 * seconds:.0f} ms beside NumPy, {len(added)} modules, {grown:.0f} MiB, no thread"


def state(package: str) -> str:
    """A model changes nothing of its host."""
    import asyncio
    import multiprocessing

    import numpy as np

    def look() -> dict[str, object]:
        names = ("SIGINT", "SIGTERM", "SIGCHLD", "SIGPIPE", "SIGUSR1")
        return {
            "environment": dict(os.environ),
            "signal handlers": [signal.getsignal(getattr(signal, name)) for name in names],
            "loggers": (logging.root.handlers[:], logging.root.level),
            "warning filters": warnings.filters[:],
            "global random numbers": (random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index]
            "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
            "interpreter settings": (sys.getrecursionlimit(), sys.getswitchinterval()),
            "working directory": os.getcwd(),  # noqa: PTH109
            "start method": multiprocessing.get_start_method(allow_none=True),
        }

    before = look()
    with _tiny_model(package) as model:
        model.generate("x", **SHORT)
        asyncio.run(model.agenerate("x", **SHORT))
    after = look()
    changed = [name for name, value in before.items() if after[name] != value]
    if changed:
        raise Problem(f"it changes the {', the '.join(changed)}")
    return "unchanged: " + ", ".join(before)


def two_models(package: str) -> str:
    """Two models side by side say what each says alone."""
    with _tiny_model(package, seed=1) as one:
        first = one.generate("x", **SHORT).token_ids
        with _tiny_model(package, seed=2, threads=2) as other:
            second = other.generate("x", **SHORT).token_ids
            handles = [model.submit("x", **SHORT) for model in (one, other) * 8]
            answers = [handle.result().token_ids for handle in handles]
    if answers != [first, second] * 8:
        raise Problem("they say something else together")
    return "16 requests, as each alone"


def other_thread(package: str) -> str:
    """A model can be loaded, used and closed in a thread that is not the main one."""
    answers: list[list[int]] = []

    def work() -> None:
        with _tiny_model(package) as model:
            answers.append(model.generate("x", **SHORT).token_ids)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    work()
    if len(answers) != 2 or answers[0] != answers[1]:
        raise Problem("it does not work there")
    return "loaded, used and closed"


def event_loop(package: str) -> str:
    """A model can be loaded and used inside a running event loop, which goes on meanwhile."""
    import asyncio

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def main() -> int:
        ticking = asyncio.ensure_future(tick())
        async with _tiny_model(package, max_position_embeddings=4096) as model:
            await model.agenerate(["x"] * 4, max_tokens=500, ignore_eos=True)
        ticking.cancel()
        return threading.active_count()

    asyncio.run(main())
    if ticks < 10:
        raise Problem("the loop stood still")
    return f"the loop turned {ticks} times meanwhile"


def memory(package: str) -> str:
    """Closing a model gives memory, threads and files back."""

    def use() -> None:
        with _tiny_model(package, threads=2) as model:
            model.generate(["x"] * 8, **SHORT)

    for _ in range(5):
        use()
    before = _resident_bytes(), threading.active_count(), _descriptors()
    for _ in range(20):
        use()
    gc.collect()
    after = _resident_bytes(), threading.active_count(), _descriptors()
    if after[0] - before[0] > MOST_GROWTH_BYTES or after[1:] != before[1:]:
        raise Problem(f"(bytes, threads, files) were {before} and are {after} after 20 models")
    return f"{(after[0] - before[0]) / 2**10:+.0f} KiB after 20 models; same threads and files"


def interrupt(package: str) -> str:
    """Ctrl-C ends the call that runs, soon, and the next one works."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    slowest = 0.0
    with _tiny_model(package, max_position_embeddings=500_000, kv_cache="500k tokens") as model:
        for _ in range(5):
            sent: list[float] = []

            def send(sent: list[float] = sent) -> None:
                sent.append(time.perf_counter())
                signal.raise_signal(signal.SIGINT)

            threading.Timer(0.05, send).start()
            try:
                model.generate("x", **LONG)
            except KeyboardInterrupt:
                slowest = max(slowest, time.perf_counter() - sent[0])
            else:
                raise Problem("it was not seen")
            if not model.generate("x", **SHORT).token_ids:
                raise Problem("the model is not usable afterwards")
        stats = model.stats()
        if stats["free_blocks"] != stats["total_blocks"]:
            raise Problem("KV blocks were lost")
    return f"seen within {1000 * slowest:.0f} ms, 5 of 5 times; the model is usable"


def fork(package: str) -> str:
    """A forked child is told so at once; its parent goes on."""
    if not hasattr(os, "fork"):
        return "no fork on this system"
    errors = importlib.import_module(f"{package}.errors")
    with _tiny_model(package) as model:
        model.generate("x", **SHORT)
        child = os.fork()
        if child == 0:
            try:
                model.generate("x", **SHORT)
            except errors.ForkedProcessError:
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1] != 0:
            raise Problem("the child did not get a ForkedProcessError")
        model.generate("x", **SHORT)
    return "ForkedProcessError in the child; the parent goes on"


def exit_while_running(package: str) -> str:
    """The interpreter ends while requests are unfinished."""
    model = _tiny_model(package)
    stream = model.stream("x", max_tokens=900, ignore_eos=True)
    next(stream)
    globals()["kept"] = (model, stream, model.submit("y", max_tokens=900))
    return "with a stream and a request that nobody waits for"


CHECKS: dict[str, Callable[[str], str]] = {
    "import": imports,
    "host's state": state,
    "two models": two_models,
    "other thread": other_thread,
    "event loop": event_loop,
    "memory back": memory,
    "Ctrl-C": interrupt,
    "fork": fork,
    "exit": exit_while_running,
}


def _found(check: str, package: str) -> dict[str, str]:
    try:
        return {"found": CHECKS[check](package)}
    except Exception as error:  # whatever it is, it is told
        return {"problem": f"{type(error).__name__}: {error}"}


def _tiny_model(package: str, **options: Any) -> Any:  # noqa: ANN401  # of a package known at run time
    return importlib.import_module(f"{package}.testing").tiny_model(**options)


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # no POSIX
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return _peak_bytes()


def _descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except OSError:
        return 0


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_found(sys.argv[2], sys.argv[1])) + "\n")
