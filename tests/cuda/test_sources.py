"""What must be true of the text of ``cuda/``, and of its way to users."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tests.cuda import opcodes
from tests.cuda.compile_gate import ARCHITECTURES, END, README, START
from tests.cuda_emulator import Emulator
from tests.cuda_emulator.build import KERNELS

from inferlib.errors import ExecutorError
from inferlib.executors.kernels import CubinCache, KernelSources, source_folder
from inferlib.executors.nvrtc import Nvrtc

SOURCES = sorted(KERNELS.glob("*.cu"))


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return Nvrtc()
    except ExecutorError as error:
        pytest.skip(str(error))


def test_the_folder_is_no_python_package():
    """``from cuda import pathfinder`` is CuPy's."""
    assert not list(KERNELS.rglob("*.py"))


def test_assembly_is_in_one_file_and_nothing_foreign_is_included():
    for path in (*SOURCES, *KERNELS.glob("*.cuh")):
        text = path.read_text()
        assert "asm" not in text or path.name.startswith("primitives"), path.name
        included = set(re.findall(r"#include (\S+)", text))
        assert included <= {f'"{name.name}"' for name in KERNELS.glob("*.cuh")} | {'"emulator.h"'}
        assert "<<<" not in text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_file_opens_with_its_contract_and_names_its_kernels_after_itself(path):
    text = path.read_text()
    contract = text[: text.index("#include")]
    assert path.stem in contract
    assert "Launch:" in contract
    names = set(Emulator().kernels(path.stem))
    assert names
    sources = KernelSources(KERNELS)
    assert {sources.file_of(name) for name in names} == {path.stem}


def test_the_table_has_every_kernel():
    table = README.read_text().split(START)[1].split(END)[0]
    listed = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert listed == {name for path in SOURCES for name in Emulator().kernels(path.stem)}


def test_a_checkout_uses_its_own_sources():
    assert source_folder() == KERNELS


def test_kernels_without_a_file_are_an_error():
    sources = KernelSources(KERNELS)
    assert sources.file_of("attention_decode_combine_bf16_64") == "attention_decode"
    assert sources.file_of("add_f32") == "add"
    with pytest.raises(ExecutorError, match="address_f32"):
        sources.file_of("address_f32")


def test_any_changed_byte_changes_the_digest(tmp_path):
    (tmp_path / "a.cu").write_text("one")
    (tmp_path / "b.cuh").write_text("two")
    before = KernelSources(tmp_path).digest()
    (tmp_path / "b.cuh").write_text("twp")
    changed = KernelSources(tmp_path).digest()
    (tmp_path / "b.cuh").unlink()
    (tmp_path / "c.cuh").write_text("twp")
    assert len({before, changed, KernelSources(tmp_path).digest()}) == 3


class TestCompiler:
    def test_a_cubin_is_made_once_and_anew_when_a_header_changes(self, nvrtc, tmp_path):
        assert nvrtc.version
        folder, cache = tmp_path / "sources", tmp_path / "cache"
        folder.mkdir()
        header = folder / "value.cuh"
        header.write_text("constexpr int VALUE = 1;")
        (folder / "one.cu").write_text(
            '#include "value.cuh"\nextern "C" __global__ void one(int* x) { *x = VALUE; }'
        )
        first = CubinCache(KernelSources(folder), "sm_90", cache).path("one")
        assert first.read_bytes().startswith(b"\x7fELF")
        made = first.stat().st_mtime_ns
        again = CubinCache(KernelSources(folder), "sm_90", cache).path("one")
        assert (again, again.stat().st_mtime_ns) == (first, made)
        header.write_text("constexpr int VALUE = 2;")
        changed = CubinCache(KernelSources(folder), "sm_90", cache).path("one")
        assert changed.read_bytes() != first.read_bytes()
        assert CubinCache(KernelSources(folder), "sm_80", cache).path("one").exists()

    def test_what_is_missing_or_forbidden_among_the_instructions_is_named(self, nvrtc):
        made_up = {"linear_many_bf16_int4_bf16": Counter({"LDSM.16.M88.4": 2, "STL.64": 1})}
        assert list(opcodes.problems("sm_90", made_up)) == [
            r"linear_many_bf16_int4_bf16 on sm_90 has no HMMA\.16816\.F32",
            r"linear_many_bf16_int4_bf16 on sm_90 has no LDGSTS\S*\.128",
            "linear_many_bf16_int4_bf16 on sm_90 has 1 STL.64",
        ]
        try:
            opcodes.disassembler()
        except FileNotFoundError as error:
            pytest.skip(str(error))
        sources = KernelSources(KERNELS)
        code, _ = nvrtc.compile("add.cu", sources.files["add"], sources.headers, "sm_90")
        counts = opcodes.opcodes(code)
        assert counts.keys() == {"add_f32", "add_bf16", "add_f16"}
        assert counts["add_f32"]["FADD"] == 4
        assert not list(opcodes.problems("sm_90", counts))

    def test_an_error_holds_the_compilers_words(self, nvrtc):
        with pytest.raises(ExecutorError, match=r"(?s)bad.cu does not compile for sm_90.*bogus"):
            nvrtc.compile("bad.cu", "bogus", {}, "sm_90")

    def test_a_real_kernel_compiles_for_every_architecture(self, nvrtc):
        sources = KernelSources(KERNELS)
        for architecture in ARCHITECTURES:
            code, usages = nvrtc.compile(
                "argmax.cu", sources.files["argmax"], sources.headers, architecture
            )
            assert code.startswith(b"\x7fELF")
            assert [usage.name for usage in usages] == ["argmax_f32"]
            assert usages[0].spill_bytes == 0
            assert usages[0].shared_bytes == 256
