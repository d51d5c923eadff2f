"""Compiles every kernel for every architecture and keeps the table in ``cuda/README.md``.

``python -m tests.cuda.compile_gate`` compares what the assembler says with the table, and fails if
a kernel does not compile, lacks an instruction that it is about (``opcodes.py``), spills, has
products that the assembler made wait for each other, or takes other registers or shared memory
than the table says; ``--write`` rewrites the table. Needs the group ``kernels`` (NVRTC and
nvdisasm), no driver, no GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import sys
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.cuda import opcodes

from inferlib.executors.cuda_sm90 import architecture_of
from inferlib.executors.kernels import KernelSources, source_folder
from inferlib.executors.nvrtc import KernelUsage, Nvrtc

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Collection

ARCHITECTURES = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100")
README = source_folder() / "README.md"
ATTEMPTS = 5
"""How often what differs is compiled again: of the same source and options the assembler makes
other code in one of ten runs, at times with a register more. What the table says must come out."""
START, END = "<!-- generated: make cuda-table -->\n", "<!-- end -->\n"


class LoggingNvrtc(Nvrtc):
    """A compiler that keeps what the assembler said of the last file, for each thread."""

    def __init__(self) -> None:
        super().__init__()
        self._last = threading.local()

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        data = super()._read(program, what)
        if what == "ProgramLog":
            self._last.log = data.decode(errors="replace")
        return data

    def serialized(self) -> list[str]:
        """Lines about products of warpgroups that wait for each other."""
        return [line for line in self._last.log.splitlines() if "serialized" in line]


def compile_files(
    sources: KernelSources, files: Collection[str]
) -> tuple[dict[str, dict[str, KernelUsage]], list[str]]:
    """Kernel → architecture → what it uses; and what is wrong with the instructions."""
    nvrtc = LoggingNvrtc()

    def compile_one(job: tuple[str, str]) -> tuple[str, tuple[KernelUsage, ...], list[str]]:
        file, architecture = job
        text, target = sources.files[file], architecture_of(file, architecture)
        if target is None:
            return architecture, (), []
        code, usages = nvrtc.compile(f"{file}.cu", text, sources.headers, target)
        if architecture == "sm_75":  # its bf16 kernels trap, and it has no asynchronous copies
            return architecture, usages, []
        found = opcodes.opcodes(code)
        wrong = [*opcodes.problems(architecture, found), *nvrtc.serialized()]
        return architecture, usages, wrong

    jobs = [(file, architecture) for file in files for architecture in ARCHITECTURES]
    usages: dict[str, dict[str, KernelUsage]] = defaultdict(dict)
    wrong: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for architecture, kernels, found in pool.map(compile_one, jobs):
            wrong += found
            for usage in kernels:
                usages[usage.name][architecture] = usage
    return usages, wrong


def bytes_moved(contract: str) -> str:
    """What a file's opening comment says of its traffic.

    Raises:
        ValueError: It says nothing.
    """
    text = " ".join(line.removeprefix("//").strip() for line in contract.splitlines())
    found = re.search(r"Bytes: (.+?)\.? (?:Oracle|Order|Source):", text)
    if found is None:
        raise ValueError(f"no 'Bytes: … Oracle: …' in {contract[:80]!r}")
    return found[1]


def table(sources: KernelSources, usages: dict[str, dict[str, KernelUsage]]) -> str:
    """The Markdown between the marks."""
    lines = sum(
        len(text.splitlines()) for text in (*sources.files.values(), *sources.headers.values())
    )
    architectures = " / ".join(name.removeprefix("sm_") for name in ARCHITECTURES)
    rows = [
        f"{len(usages)} kernels in {len(sources.files)} files, {lines:,} lines with headers.\n",
        f"| kernel | registers, sm {architectures} | spilled bytes | static shared memory "
        "| bytes moved |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(usages):
        each = [usages[name].get(architecture) for architecture in ARCHITECTURES]
        registers = " / ".join("-" if usage is None else str(usage.registers) for usage in each)
        found = [usage for usage in each if usage is not None]
        spills = " / ".join("-" if usage is None else str(usage.spill_bytes) for usage in each)
        if not any(usage.spill_bytes for usage in found):
            spills = "0"
        shared = max(usage.shared_bytes for usage in found)
        text = sources.files[sources.file_of(name)]
        moved = bytes_moved(text[: text.index("#include")])
        rows.append(f"| `{name}` | {registers} | {spills} | {shared} | {moved} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Compare or rewrite; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the table")
    arguments = parser.parse_args()
    before, rest = README.read_text().split(START)
    found, after = rest.split(END)
    sources = KernelSources(source_folder())
    usages, wrong = compile_files(sources, sources.files)
    expected = table(sources, usages)
    for _ in range(0 if arguments.write else ATTEMPTS):
        differing = set(expected.splitlines()) - set(found.splitlines())
        kernels = {name for name in usages if any(f"`{name}`" in line for line in differing)}
        if not kernels:
            break
        again, found_again = compile_files(sources, {sources.file_of(name) for name in kernels})
        usages, wrong = usages | again, wrong + found_again
        expected = table(sources, usages)
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    if arguments.write:
        README.write_text(before + START + expected + END + after)
        return bool(wrong)
    if found == expected:
        return bool(wrong)
    changed = set(expected.splitlines()) ^ set(found.splitlines())
    sys.stderr.write("cuda/README.md is not what the assembler says:\n")
    sys.stderr.writelines(f"{line}\n" for line in sorted(changed))
    return 1


if __name__ == "__main__":
    sys.exit(main())
