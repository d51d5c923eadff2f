"""What `import inferlib` costs and changes: names are defined, nothing else happens."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import inferlib

PACKAGE = Path(inferlib.__file__).parent


def run(code: str) -> str:
    """Run code in a fresh interpreter, which writes no warning; what it writes to stdout."""
    process = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code)],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == "", process.stderr
    return process.stdout


def test_it_starts_no_thread_and_loads_nothing_heavy():
    out = run(
        """
        import sys, numpy
        before = set(sys.modules)
        import inferlib, threading
        assert threading.active_count() == 1, threading.enumerate()
        heavy = {"asyncio", "ssl", "socket", "multiprocessing", "concurrent.futures", "tqdm",
                 "importlib.metadata", "ctypes", "subprocess", "torch", "cupy", "transformers"}
        print(sorted(heavy & (set(sys.modules) - before)))
        """
    )
    assert out.strip() == "[]"


def test_it_changes_nothing_of_the_host():
    run(
        """
        import os, random, signal, sys, locale, warnings, logging
        import numpy
        def state():
            return (
                dict(os.environ), random.getstate(), numpy.random.get_state()[1].tolist(),
                [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
                sys.excepthook, sys.getrecursionlimit(), sys.getswitchinterval(),
                logging.root.handlers[:], logging.root.level, warnings.filters[:], os.getcwd(),
            )
        before = state()
        import inferlib
        import inferlib.testing
        with inferlib.testing.tiny_model() as model:
            model.generate("x", max_tokens=3)
        assert state() == before
        """
    )


def test_every_public_name_exists_and_every_class_is_documented():
    for name in inferlib.__all__:
        value = getattr(inferlib, name)
        assert not isinstance(value, type) or value.__doc__, name


def test_no_file_imports_the_package_by_its_name():
    for file in PACKAGE.rglob("*.py"):
        for line in file.read_text().splitlines():
            assert not line.lstrip().startswith(("import inferlib", "from inferlib")), (file, line)


def test_logging_is_silent_unless_the_host_wants_it():
    run(
        """
        import inferlib.testing
        inferlib.testing.tiny_model().close()
        """
    )
    out = run(
        """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s")
        import inferlib.testing
        inferlib.testing.tiny_model().close()
        """
    )
    assert set(out.split()) == {"inferlib"}
