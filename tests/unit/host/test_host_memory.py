"""Reading available host RAM from /proc/meminfo, including malformed and missing files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gpumand.host.memory import MEMINFO, ProcMeminfo

TEXT = "MemTotal:       65536000 kB\nMemFree:          100000 kB\nMemAvailable:   32768999 kB\nBuffers: 0 kB\n"


async def test_available_memory_is_returned_in_mib(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(TEXT)
    memory = ProcMeminfo(tmp_path / "meminfo")

    assert await memory.available_mib() == 32768999 // 1024
    await memory.close()


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 5 kB\n", "MemAvailable: many kB\n", "MemAvailable: -5 kB\n", "XMemAvailable:   5 kB\n"]
)
async def test_file_without_valid_mem_available_yields_unknown(text: str, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(text)
    memory = ProcMeminfo(tmp_path / "meminfo")

    assert await memory.available_mib() is None
    await memory.close()


async def test_missing_file_yields_unknown_and_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = ProcMeminfo(tmp_path / "meminfo")

    with caplog.at_level(logging.WARNING):
        assert [await memory.available_mib() for _ in range(3)] == [None] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot read available host RAM from {tmp_path / 'meminfo'}: No such file or directory. "
        "Until it works again, consumers are stopped, not parked"
    ]
    await memory.close()
    assert await memory.available_mib() is None


@pytest.mark.skipif(not MEMINFO.exists(), reason="not on Linux")
async def test_meminfo_of_this_host_is_readable() -> None:
    memory = ProcMeminfo()

    assert (await memory.available_mib() or 0) > 0
    await memory.close()
