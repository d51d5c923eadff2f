"""Small parts: shared memory, the golden check, what the environment of other engines needs."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from bench.comparison.fresh import counted_bytes, resident_bytes
from bench.comparison.quality import largest_error
from bench.divergence import TopLogprobs
from bench.peers.install import ADAPTERS, REQUIREMENTS, calls, pins

SMAPS = """\
55d0c000-55d0d000 r-xp 00000000 fe:00 393 /usr/bin/python3.11
Pss:                   7 kB
7f00a000-7f00b000 rw-p 00000000 00:00 0
Size:               9000 kB
Pss:                1000 kB
Pss_Dirty:           900 kB
VmFlags: rd wr
7f10a000-7f10b000 r--s 00000000 fe:00 17 /data/model a.gguf
Pss:                 200 kB
7f20a000-7f20b000 r--s 00000000 fe:00 18 /cache/packed/1.bin
Pss:                  30 kB
7f30a000-7f30b000 rw-p 00000000 00:00 0                          [heap]
Pss:                   4 kB
"""


@pytest.mark.parametrize(
    ("weights", "mapped"),
    [([], 0), (["/data/model a.gguf"], 200), (["/data/model a.gguf", "/cache"], 230)],
)
def test_memory_is_counted_by_mapping(weights, mapped):
    found = counted_bytes(SMAPS, [Path(path) for path in weights])
    assert found == (1004 * 1024, mapped * 1024)


def test_the_golden_check_finds_the_largest_difference():
    scores = TopLogprobs(
        np.array([[5, 3, 9], [1, 2, 4]], np.int32),
        np.array([[-1, -2, -3], [-0.5, -1.5, -2.5]], np.float32),
    )
    ids = np.array([[9, 5], [1, 2]])
    expected = np.array([[-3.0, -1.25], [-0.5, -1.5]], np.float32)
    assert largest_error(scores, ids, expected) == pytest.approx(0.25)


def test_a_token_that_is_not_among_the_best_is_an_infinite_error():
    scores = TopLogprobs(np.array([[5, 3]], np.int32), np.array([[-1, -2]], np.float32))
    assert largest_error(scores, np.array([[4]]), np.array([[-1.0]])) == float("inf")
    assert largest_error(scores, np.array([[7]]), np.array([[-1.0]])) == float("inf")


def test_every_engine_has_a_pinned_requirement():
    files = REQUIREMENTS.parent.glob("requirements*.txt")
    found = {}
    for file in files:
        for call in calls(file.read_text()):
            found |= pins(call)
    assert set(ADAPTERS) <= set(found)


def test_each_line_is_one_call_of_pip():
    text = "# why\na==1.0   # because\n\n--no-deps b==2 c>=3\n"
    assert calls(text) == [["a==1.0"], ["--no-deps", "b==2", "c>=3"]]
    assert pins(["--no-deps", "b==2", "c>=3", "d"]) == {"b": "2"}


def test_a_mapping_is_found_by_any_path_to_its_file(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "weights.bin"
    file.write_bytes(b"\1" * 8_000_000)
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        sum(mapped[::4096])
        for path in (file, Path("folder"), Path("link/weights.bin")):
            assert resident_bytes(os.getpid(), [path])[1] > 4_000_000
