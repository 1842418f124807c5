"""What /proc/meminfo says, and what is made of one that says nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gpumand.host.memory import MEMINFO, ProcMeminfo

TEXT = "MemTotal:       65536000 kB\nMemFree:          100000 kB\nMemAvailable:   32768999 kB\nBuffers: 0 kB\n"


async def test_what_is_available_is_read_in_mib(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(TEXT)
    memory = ProcMeminfo(tmp_path / "meminfo")

    assert await memory.available_mib() == 32768999 // 1024
    await memory.close()


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 5 kB\n", "MemAvailable: many kB\n", "MemAvailable: -5 kB\n", "XMemAvailable:   5 kB\n"]
)
async def test_what_does_not_say_is_unknown(text: str, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(text)
    memory = ProcMeminfo(tmp_path / "meminfo")

    assert await memory.available_mib() is None
    await memory.close()


async def test_one_that_is_missing_is_unknown_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = ProcMeminfo(tmp_path / "meminfo")

    with caplog.at_level(logging.WARNING):
        assert [await memory.available_mib() for _ in range(3)] == [None] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"host RAM cannot be read from {tmp_path / 'meminfo'}: No such file or directory"
    ]
    await memory.close()
    assert await memory.available_mib() is None


@pytest.mark.skipif(not MEMINFO.exists(), reason="no Linux")
async def test_this_hosts_own_can_be_read() -> None:
    memory = ProcMeminfo()

    assert (await memory.available_mib() or 0) > 0
    await memory.close()
