"""Which lines of the scheduler and of the parsers no Rust test runs.

    make coverage [ARGS="--show"]

The tests are built with the compiler's own counters and run; ``llvm-profdata`` and ``llvm-cov``
read what they counted: the toolchain's own (``rustup component add llvm-tools``), or Debian's
``llvm-19`` or any later one. Lines of tests do not count. Fails below 98 % of ``rust/core`` or
95 % of the parsers, and names the lines that were not run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GOALS = {
    "scheduler (rust/core)": (98.0, r"rust/core/src/"),
    "parsers (rust/weights, rust/text)": (95.0, r"rust/(weights|text)/src/"),
}
PACKAGES = ("inferlib-program", "inferlib-core", "inferlib-weights", "inferlib-text")
OLDEST_LLVM = 19
"""That reads what this compiler writes."""
TESTS = re.compile(r"/(tests?|examples|benches)/|/tests?\.rs$|_tests\.rs$")


class NoLlvmError(RuntimeError):
    """The tools that read counters are not installed."""


@dataclass(frozen=True, slots=True)
class File:
    """Lines of a file that have code.

    Attributes:
        path: From the checkout's root.
        counts: By line: how often it ran.
    """

    path: str
    counts: dict[int, int]

    @property
    def missed(self) -> list[int]:
        """Lines that did not run."""
        return [line for line, count in self.counts.items() if not count]


def tool(name: str) -> str:
    """Path of an LLVM tool: the toolchain's, or the latest that there is.

    Raises:
        NoLlvmError: There is none.
    """
    command = ["rustc", "--print", "target-libdir"]
    libraries = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    own = Path(libraries.stdout.strip()).parent / "bin" / name
    if own.exists():
        return str(own)
    for version in range(40, OLDEST_LLVM - 1, -1):
        found = shutil.which(f"{name}-{version}")
        if found:
            return found
    raise NoLlvmError(
        f"{name} is not installed: rustup component add llvm-tools, or apt install llvm-19"
    )


def run_tests(folder: Path, packages: list[str]) -> list[str]:
    """Build and run the tests; counters go into ``folder``. The programs."""
    environment = {
        **os.environ,
        "RUSTFLAGS": "-C instrument-coverage",
        "CARGO_TARGET_DIR": str(ROOT / "target" / "coverage"),
        "LLVM_PROFILE_FILE": str(folder / "%p-%m.profraw"),
    }
    command = ["cargo", "test", "--profile", "checked", "--tests"]
    command += [word for package in packages for word in ("-p", package)]
    built = subprocess.run(
        [*command, "--no-run", "--message-format=json"],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    programs = [str(each["executable"]) for each in messages if each.get("executable")]
    subprocess.run([*command, "--quiet"], cwd=ROOT, env=environment, check=True)
    return programs


def read_counters(folder: Path, programs: list[str]) -> list[File]:
    """Lines of the checkout's own files and how often each ran."""
    merged = folder / "all.profdata"
    profiles = [str(path) for path in folder.glob("*.profraw")]
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", *profiles, "-o", merged], check=True)
    objects = [word for program in programs[1:] for word in ("-object", program)]
    command = [tool("llvm-cov"), "export", "-format=lcov", programs[0], *objects]
    command += [f"-instr-profile={merged}", "-ignore-filename-regex=registry|rustc|/toolchains/"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return parse_lcov(text)


def parse_lcov(text: str) -> list[File]:
    """Files of an lcov trace, without what only tests hold."""
    files, path, counts = [], "", dict[int, int]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "SF":
            path, counts = value, {}
        elif key == "DA":
            number, count = value.split(",")[:2]
            counts[int(number)] = counts.get(int(number), 0) + int(count)
        elif line == "end_of_record":
            relative = path.removeprefix(f"{ROOT}/")
            if not TESTS.search(f"/{relative}"):
                files.append(File(relative, without_tests(ROOT / relative, counts)))
    return files


def without_tests(path: Path, counts: dict[int, int]) -> dict[int, int]:
    """The lines in front of a file's module of tests, which stands last."""
    lines = path.read_text(encoding="utf8").splitlines() if path.exists() else []
    marks = (index for index, line in enumerate(lines, 1) if line.strip() == "#[cfg(test)]")
    first = next((index for index in marks if lines[index].startswith("mod tests {")), None)
    return {line: count for line, count in counts.items() if first is None or line < first}


def ranges(lines: list[int]) -> str:
    """``3-5, 9`` of ``3, 4, 5, 9``."""
    parts: list[list[int]] = []
    for line in sorted(lines):
        if parts and parts[-1][1] + 1 == line:
            parts[-1][1] = line
        else:
            parts.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def main() -> None:
    """Run the tests, print, fail below a goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", action="append", help="only these, such as inferlib-core")
    parser.add_argument("--json", type=Path, help="where the shares are stored")
    arguments = parser.parse_args()
    tool("llvm-cov")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = read_counters(folder, run_tests(folder, arguments.package or list(PACKAGES)))
    failed, shares = False, {}
    for what, (goal, pattern) in GOALS.items():
        own = [each for each in files if re.match(pattern, each.path)]
        total = sum(len(each.counts) for each in own)
        if not total:
            continue
        missed = sum(len(each.missed) for each in own)
        shares[what] = 100 * (1 - missed / total)
        failed |= shares[what] < goal
        write = sys.stdout.write
        write(f"{what}: {shares[what]:.2f} % of {total:,} lines (goal {goal:g} %)\n")
        for each in sorted(own, key=lambda file: -len(file.missed)):
            if each.missed:
                write(f"  {each.path}: {ranges(each.missed)}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(shares, indent=1) + "\n", encoding="utf8")
    if failed:
        sys.exit("too few lines are run")


if __name__ == "__main__":
    try:
        main()
    except NoLlvmError as error:
        sys.exit(str(error))
