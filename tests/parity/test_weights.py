"""Files that the ``gguf`` and ``safetensors`` packages write, read by both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from gguf.constants import GGUFValueType
from safetensors.numpy import load_file, save_file

from inferlib import _core

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(11)
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "BF16", "F16"]


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.rope.freq_base", 10_000.5)
    writer.add_bool("flag", val=True)
    writer.add_int64("negative", -(2**40))
    writer.add_string("text", "grüße 漢")
    writer.add_array("numbers", [1, -2, 3])
    writer.add_token_list([f"tok{i}é" for i in range(5000)])
    writer.add_token_scores([i / 7 for i in range(5000)])
    writer.add_tensor("plain", RNG.normal(size=(3, 5)).astype(np.float32))
    writer.add_tensor("vector", RNG.normal(size=7).astype(np.float16))
    writer.add_tensor("integers", np.arange(-6, 6, dtype=np.int32).reshape(2, 2, 3))
    for name in QUANTIZED:
        values = RNG.normal(size=(4, 3, 64)).astype(np.float32)
        dtype = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("mmap", [True, False])
def test_tensors_of_a_gguf_file_are_what_its_package_reads(gguf_path: Path, mmap: bool) -> None:  # noqa: FBT001
    weights = _core.Weights.open(gguf_path, mmap=mmap)
    reader = gguf.GGUFReader(gguf_path)
    assert weights.format == "gguf"
    assert weights.names == [tensor.name for tensor in reader.tensors]
    assert weights.total_bytes == sum(tensor.n_bytes for tensor in reader.tensors)
    for tensor in reader.tensors:
        dtype, shape = weights.info(tensor.name)
        assert dtype == tensor.tensor_type.name
        assert shape == tuple(reversed(tensor.shape.tolist()))
        assert weights.raw(tensor.name).tobytes() == tensor.data.tobytes()
        values = weights.array(tensor.name)
        if dtype != "I32":
            wanted = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
            np.testing.assert_array_equal(values, wanted)
        assert values.shape == shape
    np.testing.assert_array_equal(weights.array("integers").ravel(), np.arange(-6, 6))


def test_metadata_of_a_gguf_file_are_what_its_package_reads(gguf_path: Path) -> None:
    weights = _core.Weights.open(gguf_path)
    reader = gguf.GGUFReader(gguf_path)
    listed = weights.metadata()
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value = weights.metadata_value(key)
        assert value == field.contents(), key
        assert type(value) is type(field.contents()), key
        is_long = field.types[0] == GGUFValueType.ARRAY and len(field.data) > 1024
        assert (key in listed) is not is_long
        if not is_long:
            assert listed[key] == value
    assert weights.metadata_value("no such key") is None


def test_a_safetensors_file_is_what_its_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "f32": RNG.normal(size=(2, 3)).astype(np.float32),
        "f16": RNG.normal(size=(5,)).astype(np.float16),
        "f64": RNG.normal(size=(1, 1, 2)),
        "i64": np.array([1, -(2**40)]),
        "u8": np.arange(9, dtype=np.uint8),
        "bool": np.array([True, False]),
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(tensors, path, metadata={"format": "np"})
    weights = _core.Weights.open(path)
    assert weights.format == "safetensors"
    assert weights.metadata() == {"format": "np"}
    assert sorted(weights.names) == sorted(tensors)
    for name, wanted in load_file(path).items():
        values = weights.array(name)
        assert values.shape == wanted.shape == weights.info(name)[1]
        np.testing.assert_array_equal(values, wanted.astype(np.float32))
