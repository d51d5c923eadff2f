"""The file of a long run: whatever happened to it, what is whole is read and nothing is made up."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferlib.checkpoint_log import CheckpointLog
from inferlib.errors import CheckpointError, CheckpointMismatchError

FINGERPRINT = {"params": {"temperature": 0.5, "stop": []}, "model": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


def write(path, count=3):
    log = CheckpointLog(path, FINGERPRINT)
    for index in range(count):
        log.put(index, f"{index:02x}", {"completion": {"text": f"é{index}\n"}})
    log.close()
    return path.read_bytes()


def read(path, count=3):
    log = CheckpointLog(path, FINGERPRINT)
    try:
        return [log.get(index, f"{index:02x}") for index in range(count)]
    finally:
        log.close()


def test_what_was_put_is_found_again(path):
    data = write(path)
    assert [line["index"] for line in map(json.loads, data.splitlines()[1:])] == [0, 1, 2]
    assert [each["completion"]["text"] for each in read(path)] == ["é0\n", "é1\n", "é2\n"]
    assert path.read_bytes() == data


def test_results_may_come_in_any_order_and_the_last_one_counts(path):
    log = CheckpointLog(path, FINGERPRINT)
    log.put(7, "aa", {"completion": 1})
    log.put(2, "bb", {"completion": 2})
    log.put(7, "aa", {"completion": 3})
    assert len(log) == 2
    assert log.get(7, "aa")["completion"] == 3
    assert log.get(0, "cc") is None
    log.close()
    log = CheckpointLog(path, FINGERPRINT)
    assert log.get(7, "aa")["completion"] == 3
    log.close()
    log.close()


def test_a_file_that_ends_anywhere_gives_its_whole_lines_and_goes_on(path):
    data = write(path)
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        log = CheckpointLog(path, FINGERPRINT)
        whole = data[:end].count(b"\n") - 1
        assert len(log) == max(0, whole)
        for index in range(len(log), 3):
            log.put(index, f"{index:02x}", {"completion": {"text": f"é{index}\n"}})
        log.close()
        assert path.read_bytes() == data


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_is_an_error_or_changes_only_what_it_is_in(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    content = bytearray(write(path))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert [each is None or isinstance(each, dict) for each in read(path)] == [True] * 3


@pytest.mark.parametrize(
    "content", [b"hello\n", b"hello", b"{}\n", b"[]\n", b'{"index":0}\n', b"\x00" * 50]
)
def test_other_files_are_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        CheckpointLog(path, FINGERPRINT)
    assert path.read_bytes() == content


def test_what_differs_is_named(path):
    write(path)
    other = {"params": {"temperature": 0.7, "stop": []}, "model": None}
    with pytest.raises(CheckpointMismatchError, match=r"params\.temperature") as raised:
        CheckpointLog(path, other)
    assert (raised.value.field, raised.value.expected, raised.value.found) == (
        "params.temperature",
        0.7,
        0.5,
    )
    with pytest.raises(CheckpointMismatchError) as raised:
        CheckpointLog(path, FINGERPRINT | {"model": {"weights": "x"}})
    assert raised.value.field == "model"


def test_another_item_at_the_same_place(path):
    write(path)
    log = CheckpointLog(path, FINGERPRINT)
    with pytest.raises(CheckpointMismatchError, match="item 1"):
        log.get(1, "ff")
    log.close()


def test_one_run_at_a_time(path):
    log = CheckpointLog(path, FINGERPRINT)
    with pytest.raises(CheckpointError, match="another run"):
        CheckpointLog(path, FINGERPRINT)
    log.close()
    CheckpointLog(path, FINGERPRINT).close()


def test_places_that_hold_no_file(tmp_path):
    for place in (tmp_path, tmp_path / "none" / "run.jsonl", "\0"):
        with pytest.raises(CheckpointError, match="opened"):
            CheckpointLog(place, FINGERPRINT)


def test_devices_are_no_files():
    with pytest.raises(CheckpointError, match="no file"):
        CheckpointLog("/dev/zero", FINGERPRINT)


def test_a_full_disk_leaves_whole_lines(path):
    log = CheckpointLog(path, FINGERPRINT)
    log.put(0, "00", {"completion": 1})
    file = log._file

    class Full:
        def write(self, data):
            return file.write(data[:10])

        def __getattr__(self, name):
            return getattr(file, name)

    log._files[0] = Full()
    with pytest.raises(CheckpointError, match="written"):
        log.put(1, "01", {"completion": 2})
    log.close()
    log = CheckpointLog(path, FINGERPRINT)
    assert (log.get(0, "00")["completion"], log.get(1, "01")) == (1, None)
    log.close()
