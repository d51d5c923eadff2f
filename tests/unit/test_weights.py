"""The checkpoint reader as Python sees it: views, ownership, typed errors."""

from __future__ import annotations

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from inferlib import _core, errors

if TYPE_CHECKING:
    from pathlib import Path

GIT_LFS = b"version https://git-lfs.github.com/spec/v1\nsize 7\n"
VALUES = np.arange(4096, dtype=np.float32).reshape(64, 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"w": VALUES, "b": VALUES[0]}, path)
    return path


@pytest.mark.parametrize("mmap", [True, False])
def test_a_raw_view_is_read_only_and_keeps_the_checkpoint_open(path: Path, mmap: bool) -> None:  # noqa: FBT001
    weights = _core.Weights.open(path, mmap=mmap)
    assert weights.is_mapped is mmap
    raw = weights.raw("w")
    assert raw.dtype == np.uint8
    assert not raw.flags.writeable
    assert not raw.flags.owndata
    with pytest.raises(ValueError, match="WRITEABLE"):
        raw.flags.writeable = True
    again = weights.raw("w")
    assert np.shares_memory(raw, again)
    del weights, again
    gc.collect()
    np.testing.assert_array_equal(raw.view(np.float32), VALUES.ravel())


def test_an_array_is_the_callers_own(path: Path) -> None:
    weights = _core.Weights.open(path)
    values = weights.array("w")
    assert values.flags.writeable
    assert values.flags.c_contiguous
    values[:] = 0
    np.testing.assert_array_equal(weights.array("w"), VALUES)


def test_a_released_tensor_is_read_again(path: Path) -> None:
    weights = _core.Weights.open(path)
    weights.release("w")
    weights.release("no such tensor")
    np.testing.assert_array_equal(weights.array("w"), VALUES)


def test_a_checkpoint_in_memory_is_read() -> None:
    weights = _core.Weights.from_bytes("tiny.safetensors", save({"w": VALUES}))
    np.testing.assert_array_equal(weights.array("w"), VALUES)
    with pytest.raises(errors.ModelFormatError, match=r"tiny\.safetensors"):
        _core.Weights.from_bytes("tiny.safetensors", b"\0\1\2")


def test_many_threads_may_read_one_checkpoint(path: Path) -> None:
    weights = _core.Weights.open(path)
    with ThreadPoolExecutor(8) as pool:
        for values in pool.map(lambda _: weights.array("w"), range(64)):
            np.testing.assert_array_equal(values, VALUES)


def test_a_tensor_that_is_not_there_is_a_key_error(path: Path) -> None:
    weights = _core.Weights.open(path)
    for method in (weights.info, weights.array, weights.raw):
        with pytest.raises(KeyError, match="nope"):
            method("nope")


def test_a_missing_file_names_its_near_matches(path: Path) -> None:
    with pytest.raises(errors.ModelNotFoundError, match=r"did you mean model\.safetensors") as info:
        _core.Weights.open(path.with_name("model.safetensor"))
    assert isinstance(info.value, FileNotFoundError)
    assert info.value.path == str(path.with_name("model.safetensor"))


def test_a_truncated_file_says_where_it_ends(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(errors.ModelFormatError, match="truncated") as info:
        _core.Weights.open(str(path))
    error = info.value
    assert isinstance(error, ValueError)
    assert (error.path, error.found) == (str(path), str(VALUES.nbytes - 10))
    assert error.expected == str(VALUES.nbytes)
    assert error.offset == len(content) - VALUES.nbytes
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.offset) == (str(error), error.offset)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("pytorch_model.bin", b"\x80\x02}q\x00.", errors.UnsupportedModelError, "safetensors"),
        ("m.safetensors", b"PK\x03\x04 archive/data.pkl", errors.UnsupportedModelError, "pickle"),
        (
            "m.gguf",
            b"version https://git-lfs.github.com/spec/v1\n",
            errors.ModelFormatError,
            "git lfs pull",
        ),
        ("m.gguf", b"<!DOCTYPE html><html>", errors.ModelFormatError, "HTML page"),
        ("m.gguf", b"", errors.ModelFormatError, "empty"),
        ("m.gguf", b"GGUF\x01\0\0\0", errors.UnsupportedModelError, "version 1"),
        ("m.gguf", b"GGUF\0\0\0\x03", errors.UnsupportedModelError, "big-endian"),
        ("m.xyz", b"hello there", errors.ModelFormatError, "neither GGUF nor safetensors"),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, error: type[errors.ModelError], words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=words) as info:
        _core.Weights.open(path)
    assert info.value.path == str(path)


def test_a_folder_without_weights_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.ModelNotFoundError, match=r"config\.json"):
        _core.Weights.open(tmp_path)


def test_a_file_that_may_not_be_read_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "loop.gguf"
    path.symlink_to(path)
    with pytest.raises(errors.ModelReadError) as info:
        _core.Weights.open(path)
    assert isinstance(info.value, OSError)


def test_a_file_that_changed_after_it_was_mapped_is_noticed(path: Path) -> None:
    weights = _core.Weights.open(path)
    weights.check_unchanged()
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(errors.ModelFormatError, match="mmap=False"):
        weights.check_unchanged()


def test_dequantize_names_what_does_not_fit() -> None:
    with pytest.raises(errors.RequestError, match="Q9_X") as info:
        _core.dequantize("Q9_X", np.zeros(4, dtype=np.uint8))
    assert info.value.field == "dtype"
    with pytest.raises(errors.RequestError, match="17 bytes of Q4_0"):
        _core.dequantize("Q4_0", np.zeros(17, dtype=np.uint8))
