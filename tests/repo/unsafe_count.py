"""How much of the Rust code is ``unsafe``, by crate: ``python -m tests.repo.unsafe_count``.

Comments, strings and tests are left out. Lines are those of the blocks, from brace to brace.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

RUST = Path(__file__).parents[2] / "rust"
_NOT_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(\#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\.|[^'\\])'""", re.DOTALL
)
_UNSAFE = re.compile(r"\bunsafe\b\s*(?P<what>\{|(?:extern\s*)?fn\b|impl\b|trait\b|extern\b)")
_TEST_ITEM = re.compile(r"#\[cfg\((?:all\()?test\b[^;{]*(?P<end>[;{])")


@dataclass(frozen=True, slots=True)
class Count:
    """Of one file.

    Attributes:
        blocks: ``unsafe { … }``.
        lines: Of those blocks.
        functions: ``unsafe fn``: they ask something of their callers.
        others: ``unsafe impl`` and ``unsafe trait``.
    """

    blocks: int = 0
    lines: int = 0
    functions: int = 0
    others: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.blocks + other.blocks,
            self.lines + other.lines,
            self.functions + other.functions,
            self.others + other.others,
        )


def counts() -> dict[str, Count]:
    """By file, relative to ``rust/``; files without are left out."""
    found = {}
    for path in sorted(RUST.glob("*/src/**/*.rs")):
        if (
            path.stem == "tests"
            or path.stem.endswith("_tests")
            or "tests" in path.parent.parts[-1:]
        ):
            continue
        count = count_in(path.read_text(encoding="utf8"))
        if count != Count():
            found[path.relative_to(RUST).as_posix()] = count
    return found


def count_in(source: str) -> Count:
    """What is unsafe in a source text."""
    code = _NOT_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)
    code = _without_tests(code)
    total = Count()
    for match in _UNSAFE.finditer(code):
        what = match["what"]
        if what == "{":
            total += Count(blocks=1, lines=_lines_of_block(code, match.end() - 1))
        elif what.endswith("fn"):
            total += Count(functions=1)
        else:
            total += Count(others=1)
    return total


def _without_tests(code: str) -> str:
    """Leave out what is compiled for tests only, here or in a file of its own."""
    kept, start = [], 0
    for match in _TEST_ITEM.finditer(code):
        if match.start() < start:
            continue  # within the last one
        kept.append(code[start : match.start()])
        last = match.end() - 1
        start = (last if match["end"] == ";" else _end_of_block(code, last)) + 1
    return "".join([*kept, code[start:]])


def _lines_of_block(code: str, start: int) -> int:
    return code.count("\n", start, _end_of_block(code, start)) + 1


def _end_of_block(code: str, start: int) -> int:
    """Where the brace at ``start`` is closed."""
    depth = 0
    for place in range(start, len(code)):
        depth += {"{": 1, "}": -1}.get(code[place], 0)
        if depth == 0:
            return place
    raise ValueError("a block does not end")


def main() -> None:
    """Print the table."""
    crates: dict[str, Count] = defaultdict(Count)
    for path, count in counts().items():
        crates[path.split("/", 1)[0]] += count
    print(f"{'crate':10s}{'blocks':>8s}{'their lines':>13s}{'functions':>11s}{'impls':>7s}")  # noqa: T201
    for crate in sorted(path.name for path in RUST.iterdir() if (path / "src").is_dir()):
        count = crates[crate]
        numbers = f"{count.blocks:8d}{count.lines:13d}{count.functions:11d}{count.others:7d}"
        print(f"{crate:10s}{numbers}")  # noqa: T201


if __name__ == "__main__":
    main()
