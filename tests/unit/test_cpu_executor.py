"""What making the CPU's executor says about the weights."""

from inferlib.executors.cpu import fallback_messages


def fallback(name, type_, held_as, held, file):
    return {"name": name, "type": type_, "held_as": held_as, "bytes": held, "file_bytes": file}


def test_fallbacks_are_told_per_type_with_what_they_cost():
    weights = [
        fallback("a", "F8_E4M3", "F16", 2 * 2**20, 2**20),
        fallback("b", "F64", "F32", 2**20, 2 * 2**20),
        fallback("c", "F8_E4M3", "F16", 4 * 2**20, 2 * 2**20),
    ]
    first, second = fallback_messages({"fallback_weights": weights})
    assert first.startswith("2 weights are F8_E4M3, a type without a packed layout: held as F16")
    assert "6.0 MiB instead of the file's 3.0 MiB" in first
    assert second.startswith("1 weights are F64")


def test_packed_weights_are_no_news():
    assert list(fallback_messages({"fallback_weights": []})) == []
