"""Compiles a kernel file for the host, once: the library's name is a hash of all it is made of.

Most of what a kernel file includes is the emulator. So that is compiled once, too, and its headers
are read once: a library takes a tenth to a half of the time that it would take otherwise.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HEADERS = Path(__file__).parent
REPOSITORY = HEADERS.parent.parent
KERNELS = REPOSITORY / "cuda"
CACHE = REPOSITORY / "target" / "cuda_emulator"

_FLAGS = (
    *("-std=c++20", "-O2", "-g1", "-march=native", "-fPIC"),
    *("-fvisibility=hidden", "-fno-gnu-unique"),  # or libraries would share their registries
    "-fno-strict-aliasing",  # kernels read 16 bytes at a time, whatever they hold
    "-ffp-contract=off",  # only what is written as fmaf is fused, for equal bits
    *("-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-attributes"),
    "-DINFERLIB_CUDA_EMULATOR",
)


_HEADER, _OBJECT = "emulator_headers.h", "emulator.o"

# A line that makes one kernel of a template: `ADD(f32, float)`.
_INSTANTIATION = re.compile(r"^[A-Z0-9_]+\((\w+), .*\)\n", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """To the text of a kernel file.

    Attributes:
        text: Occurs in it exactly once.
        by: What stands in its place.
        keep: Names of the instantiations that stay; ``None`` means all.
        header: A header that the file includes, if the text is there.
    """

    text: str
    by: str
    keep: tuple[str, ...] | None = None
    header: str | None = None

    def replace(self, source: str) -> str:
        """The changed text of the file that has it."""
        if source.count(self.text) != 1:
            raise ValueError(f"{self.text!r} occurs {source.count(self.text)} times")
        return source.replace(self.text, self.by)

    def apply(self, source: str) -> str:
        """The changed text of the kernel file."""
        if self.header is None:
            source = self.replace(source)
        if self.keep is None:
            return source
        keep = self.keep
        return _INSTANTIATION.sub(lambda line: line[0] if line[1] in keep else "", source)


def compile_all() -> None:
    """Compile every kernel file, on all cores."""
    _compile_emulator(())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_kernels, sorted(KERNELS.glob("*.cu"))))


def compile_kernels(
    source: Path, *, defines: tuple[str, ...] = (), change: Change | None = None
) -> Path:
    """Compile one ``.cu`` file; the path of the library.

    Args:
        source: The file.
        defines: Macros.
        change: To the text of the file, for planted bugs.

    Raises:
        RuntimeError: g++ refuses it; the message is g++'s.
    """
    text = source.read_text()
    changed_header = None
    if change is not None:
        text = change.apply(text)
        if change.header is not None:
            changed_header = change.replace((KERNELS / change.header).read_text())
    flags = (*_FLAGS, *(f"-D{define}" for define in defines))
    digest = hashlib.sha256(repr((source.name, text, changed_header, flags)).encode())
    digest.update(_environment())
    for header in (*sorted(source.parent.glob("*.cuh")), *sorted(KERNELS.glob("*.cuh"))):
        digest.update(header.read_bytes())
    library = CACHE / f"{source.stem}-{digest.hexdigest()[:20]}.so"
    if library.exists():
        return library
    emulator = _compile_emulator(defines)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        target = Path(folder) / library.name
        changed = Path(folder) / source.name
        changed.write_text(text)
        if change is not None and changed_header is not None:
            # Beside the file, where #include looks first.
            (Path(folder) / str(change.header)).write_text(changed_header)
        includes = [f"-I{path}" for path in (HEADERS, source.parent, KERNELS)]
        before = ("-include", str(emulator / _HEADER))
        inputs = ("-x", "c++", str(changed), "-x", "none", str(emulator / _OBJECT))
        _compile(source.name, *flags, "-shared", *before, *includes, "-o", str(target), *inputs)
        target.replace(library)  # whole or not at all, whoever else compiles it
    return library


@functools.cache
def _compile_emulator(defines: tuple[str, ...]) -> Path:
    """A folder with the emulator's object file, and its headers as the compiler remembers them."""
    flags = (*_FLAGS, *(f"-D{define}" for define in defines), f"-I{HEADERS}")
    digest = hashlib.sha256(repr((flags, str(HEADERS))).encode() + _environment())
    folder = CACHE / f"emulator-{digest.hexdigest()[:20]}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as parent:
        made = Path(parent) / "emulator"
        made.mkdir()
        (made / _HEADER).write_text('#include "emulator.h"\n')
        header = ("-x", "c++-header", "-o", f"{made / _HEADER}.gch", str(made / _HEADER))
        jobs = [("emulator.h", *header)]
        jobs += [("emulator.cpp", "-c", "-o", str(made / _OBJECT), str(HEADERS / "emulator.cpp"))]
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(lambda job: _compile(job[0], *flags, *job[1:]), jobs))
        with contextlib.suppress(OSError):  # somebody else was quicker
            made.rename(folder)
    return folder


def _compile(name: str, *arguments: str) -> None:
    command = ["g++", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"g++ refuses {name}:\n{done.stderr}")


@functools.cache
def _environment() -> bytes:
    """The emulator, the compiler and the instruction set that ``-march=native`` means."""
    parts = [path.read_bytes() for path in sorted(HEADERS.glob("*.[hc]*"))]
    parts += [
        subprocess.run(command, capture_output=True, check=True).stdout
        for command in (["g++", "--version"], ["g++", "-march=native", "-Q", "--help=target"])
    ]
    return b"".join(parts)
