"""Free memory, and the container's limit."""

from __future__ import annotations

from inferlib import host_memory


def test_some_memory_is_free_and_not_more_than_a_machine_has():
    assert 2**20 < host_memory.free_bytes() < 2**50


def test_a_control_group_caps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert host_memory.free_bytes() == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory.free_bytes() > 600_000


def test_without_proc_physical_memory_is_asked(monkeypatch):
    monkeypatch.setattr(host_memory, "_meminfo_available", lambda: None)
    monkeypatch.setattr(host_memory, "_cgroup_remaining", lambda: None)
    assert 2**20 < host_memory.free_bytes() < 2**50
