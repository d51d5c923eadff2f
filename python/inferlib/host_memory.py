"""How much memory this process may still take: the machine's, or its container's if less."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """Return the bytes that can be allocated now without swapping.

    On Linux ``MemAvailable``, capped by the control group's limit; elsewhere the free (or, failing
    that, half of all) physical memory.
    """
    available = _meminfo_available()
    if available is None:
        available = _physical_bytes()
    limit = _cgroup_remaining()
    return available if limit is None else min(available, limit)


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_remaining() -> int | None:
    """Memory left in this process's control group (version 2, then 1); ``None`` if unlimited."""
    for limit_name, usage_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = (_CGROUP / limit_name).read_text(encoding="ascii").strip()
            usage = (_CGROUP / usage_name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit != "max":
            return max(0, int(limit) - int(usage))
    return None


def _physical_bytes() -> int:
    names = getattr(os, "sysconf_names", {})
    if "SC_PAGE_SIZE" in names:
        page_size = os.sysconf("SC_PAGE_SIZE")
        if "SC_AVPHYS_PAGES" in names:
            return os.sysconf("SC_AVPHYS_PAGES") * page_size
        if "SC_PHYS_PAGES" in names:
            return os.sysconf("SC_PHYS_PAGES") * page_size // 2
    return _windows_available()


def _windows_available() -> int:
    import ctypes  # only where nothing else tells

    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total_physical", ctypes.c_ulonglong),
            ("available_physical", ctypes.c_ulonglong),
            ("total_page_file", ctypes.c_ulonglong),
            ("available_page_file", ctypes.c_ulonglong),
            ("total_virtual", ctypes.c_ulonglong),
            ("available_virtual", ctypes.c_ulonglong),
            ("available_extended_virtual", ctypes.c_ulonglong),
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  # absent from the stubs elsewhere
    kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.available_physical)
