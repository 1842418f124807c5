"""The simulated source with real files and real processes."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gpumand.host.clock import SystemClock
from gpumand.testing.vram_announcement import Announcement
from gpumand.vram.process import command_name, is_dead, start_ticks
from gpumand.vram.simulated import SimulatedSource, default_dir
from gpumand.vram.simulated_files import MAX_FILES
from tests.waiting import block_until

ME = os.getpid()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "simulated"


@pytest_asyncio.fixture
async def source(directory: Path) -> AsyncIterator[SimulatedSource]:
    source = SimulatedSource((24564, 8192), str(directory), SystemClock())
    yield source
    await source.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


def write(directory: Path, name: int | str, content: str | bytes) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / str(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


async def free_mib(source: SimulatedSource, device: int = 0) -> int | None:
    return (await source.read()).devices[device].free_mib


async def test_directory_is_created_for_its_owner_only(source: SimulatedSource, directory: Path) -> None:
    reading = await source.read()
    assert reading.error == ""
    assert [(one.uuid, one.total_mib, one.used_mib, one.free_mib) for one in reading.devices] == [
        ("SIM-0", 24564, 0, 24564),
        ("SIM-1", 8192, 0, 8192),
    ]
    assert all(one.attributed and one.source == "simulated" for one in reading.devices)
    assert mode(directory) == 0o700


async def test_plain_integer_is_mib_on_device_0(source: SimulatedSource, directory: Path) -> None:
    write(directory, ME, "13312\n")
    first, second = (await source.read()).devices
    assert (first.used_mib, first.free_mib, second.free_mib) == (13312, 11252, 8192)
    [process] = first.processes
    assert (process.pid, process.used_mib, process.consumer) == (ME, 13312, "")
    assert process.name == command_name(ME) != ""


async def test_object_has_device_consumer_and_process_name(source: SimulatedSource, directory: Path) -> None:
    write(directory, ME, json.dumps({"mib": 100, "device": 1, "consumer": "comfyui", "name": "/x/comfy"}))
    first, second = (await source.read()).devices
    assert (first.free_mib, second.free_mib) == (24564, 8092)
    assert (second.processes[0].consumer, second.processes[0].name) == ("comfyui", "comfy")
    assert second.held_by("comfyui") == 100


async def test_list_announces_memory_on_several_devices(source: SimulatedSource, directory: Path) -> None:
    write(directory, ME, json.dumps([{"mib": 100}, {"mib": 10, "device": 1}, {"mib": 5}]))
    first, second = (await source.read()).devices
    assert (first.used_mib, second.used_mib) == (105, 10)
    assert len(first.processes) == 1


async def test_announcements_above_the_total_leave_nothing_free(source: SimulatedSource, directory: Path) -> None:
    write(directory, ME, "20000")
    write(directory, os.getppid(), "20000")
    sample = (await source.read()).devices[0]
    assert (sample.used_mib, sample.free_mib) == (24564, 0)


async def test_killed_process_frees_what_it_announced(source: SimulatedSource, directory: Path) -> None:
    code = (
        "from gpumand.testing.vram_announcement import Announcement; "
        f"Announcement({str(directory)!r}, 'x').set(4096); input()"
    )
    child = start(code)
    assert child.stdin is not None
    block_until((directory / str(child.pid)).exists)
    assert await free_mib(source) == 24564 - 4096
    child.kill()
    # The child is a zombie until it is waited for; a zombie holds no memory.
    block_until(lambda: is_dead(child.pid))
    assert await free_mib(source) == 24564
    child.wait()
    child.stdin.close()
    assert await free_mib(source) == 24564
    assert (directory / str(child.pid)).exists(), "the file is still there"


async def test_reused_pid_does_not_inherit_memory(source: SimulatedSource, directory: Path) -> None:
    path = write(directory, ME, "4096")
    assert await free_mib(source) == 24564 - 4096
    # As if another process with the same pid had written the file before this one started.
    ticks = start_ticks(ME)
    assert ticks is not None
    boot_sec = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    before_sec = boot_sec + ticks / os.sysconf("SC_CLK_TCK") - 10
    os.utime(path, (before_sec, before_sec))
    assert await free_mib(source) == 24564


async def test_announcement_is_written_atomically_and_removed_at_the_end(
    source: SimulatedSource, directory: Path
) -> None:
    with Announcement(directory, "comfyui", 1, name="main") as announcement:
        announcement.set(100)
        announcement.set(200)
        sample = (await source.read()).devices[1]
        assert (sample.used_mib, sample.held_by("comfyui"), sample.processes[0].name) == (200, 200, "main")
        assert names(directory) == [str(ME)]
        assert mode(directory) == 0o700
    assert await free_mib(source, 1) == 8192
    announcement.clear()


INVALID_FILES = {
    "empty": b"",
    "text": b"lots",
    "negative": b"-5",
    "huge": b"99999999999999999999",
    "many digits": b"9" * 4000,
    "float": b"12.5",
    "nan": b"NaN",
    "bool": b"true",
    "null": b"null",
    "string": b'"4096"',
    "no mib": b"{}",
    "unknown key": b'{"mib": 1, "miB": 2}',
    "no such device": b'{"mib": 1, "device": 2}',
    "negative device": b'{"mib": 1, "device": -1}',
    "device is not an integer": b'{"mib": 1, "device": "0"}',
    "list in list": b"[[1]]",
    "deep": b"[" * 4000,
    "consumer is a list": b'{"mib": 1, "consumer": []}',
    "long consumer": b'{"mib": 1, "consumer": "' + b"x" * 200 + b'"}',
    "control characters": b'{"mib": 1, "consumer": "a\\u0007"}',
    "not UTF-8": b"\xff\xfe\x00",
    "too large": b"1" + b" " * 4096,
    "second entry bad": b'[{"mib": 1}, {"mib": -1}]',
}


@pytest.mark.parametrize("case", INVALID_FILES)
async def test_invalid_file_is_ignored_and_logged_once(
    source: SimulatedSource, directory: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    path = write(directory, ME, INVALID_FILES[case])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await free_mib(source) == 24564
    [record] = caplog.records
    assert str(path) in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 500
    path.write_text("1")
    assert await free_mib(source) == 24563


async def test_only_regular_files_are_read(
    source: SimulatedSource, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = write(directory, "target", "4096")
    os.symlink(target, directory / str(ME))
    os.mkfifo(directory / str(os.getppid()))
    (directory / "1").mkdir()
    with caplog.at_level(logging.WARNING):
        assert await free_mib(source) == 24564
    assert len(caplog.records) == 3


async def test_other_file_names_are_ignored(
    source: SimulatedSource, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("0", f"0{ME}", f"{ME} ", f"+{ME}", f".{ME}.new", "٣", "9" * 11):
        write(directory, name, "4096")
    with caplog.at_level(logging.WARNING):
        assert await free_mib(source) == 24564
    assert not caplog.records


async def test_sample_is_not_attributed_if_there_are_too_many_files(source: SimulatedSource, directory: Path) -> None:
    for number in range(MAX_FILES + 10):
        write(directory, 4_000_000_000 + number, "1")
    assert not (await source.read()).devices[0].attributed


@pytest.mark.parametrize("kind", ["file", "symlink", "unwritable parent"])
async def test_unusable_directory_gives_unknown_readings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "simulated"
    if kind == "file":
        path.touch()
    elif kind == "symlink":
        path.symlink_to(tmp_path)
    else:
        path = Path("/proc/no/such")
    source = SimulatedSource((100,), str(path), SystemClock())
    reading = await source.read()
    await source.close()
    assert reading.error.startswith("simulator-failed: ")
    [sample] = reading.devices
    assert (sample.uuid, sample.total_mib, sample.free_mib, sample.attributed) == ("SIM-0", None, None, False)
    assert sample.error == reading.error


async def test_closed_source_reports_an_error(directory: Path) -> None:
    source = SimulatedSource((100,), str(directory), SystemClock())
    await source.close()
    assert (await source.read()).error.startswith("simulator-failed: ")


def test_default_directory_depends_on_xdg_runtime_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_dir() == Path("/run/user/1000/gpumand-simulated")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_dir() == Path("/run/gpumand-simulated")
