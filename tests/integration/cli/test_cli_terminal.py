"""gpumanctl on terminals and pipes: colors, pager, progress and monitor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.bus.names import CONSUMER, MANAGER
from gpumand.testing.bus import PrivateBus
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, Screen, finished
from tests.integration.cli.manager import LEASE, ScriptedManager, dictionary, grant, never, variants
from tests.unit.cli import samples


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_SEC):
        return (await process.stdout.readline()).decode().rstrip("\n")


async def shown(ctl: Ctl, *args: str, **changes: str) -> str:
    screen = await Screen.start(ctl.with_environment(changes), *args)
    assert await screen.end() == 0
    return screen.text


async def test_terminal_gets_colors_and_a_pipe_does_not(ctl: Ctl, manager: ScriptedManager) -> None:
    assert "\x1b[36m█" in await shown(ctl, "status")
    assert "\x1b" not in (await ctl("status")).out


@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_no_color_and_dumb_terminals_get_no_escape_sequences(
    ctl: Ctl, manager: ScriptedManager, changes: dict[str, str]
) -> None:
    text = await shown(ctl, "status", **changes)
    assert "\x1b" not in text
    assert "[aaaa" in text


async def test_json_on_a_terminal_is_indented(ctl: Ctl, manager: ScriptedManager) -> None:
    text = await shown(ctl, "status", "--json")
    assert json.loads(text) == samples.status(queue=[])
    assert text.count("\n") > 20


async def test_encoding_without_block_characters_gets_ascii(ctl: Ctl, manager: ScriptedManager) -> None:
    result = await ctl("status", PYTHONIOENCODING="ascii:strict", LC_ALL="C")
    assert result.code == 0
    assert result.out.isascii()


async def test_long_output_goes_through_the_pager_unless_disabled(
    ctl: Ctl, manager: ScriptedManager, tmp_path: Path
) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED\ncat\n")
    pager.chmod(0o755)
    many = [samples.consumer(f"c{number}") for number in range(40)]
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[], consumers=many))
    assert "PAGED" in await shown(ctl, "list", PAGER=str(pager))
    assert "PAGED" not in await shown(ctl, "list", "--no-pager", PAGER=str(pager))
    assert "PAGED" not in await shown(ctl, "--json", "list", PAGER=str(pager))
    assert "PAGED" not in (await ctl("list", PAGER=str(pager))).out


async def test_quitting_the_pager_early_is_not_an_error(ctl: Ctl, manager: ScriptedManager) -> None:
    many = [samples.consumer(f"c{number}") for number in range(3000)]
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[], consumers=many))
    assert "Traceback" not in await shown(ctl, "list", PAGER="true")


def hang_up(process: asyncio.subprocess.Process) -> None:
    """Close the reading end of its stdout, for which asyncio has no public way."""
    cast(Any, process)._transport.get_pipe_transport(1).close()


async def test_a_closed_pipe_exits_141_without_a_message(ctl: Ctl, manager: ScriptedManager) -> None:
    many = [samples.consumer(f"c{number}") for number in range(3000)]
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[], consumers=many))
    process = await ctl.start("list", "--json")
    assert process.stdout is not None
    hang_up(process)
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_SEC):
        errors = await process.stderr.read()
        code = await process.wait()
    assert (code, errors) == (141, b"")


async def test_progress_on_a_terminal_is_live_and_leaves_no_trace(ctl: Ctl, manager: ScriptedManager) -> None:
    release = asyncio.Event()
    manager.answers["Acquire"] = lambda _: granted_after(release)
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[waiting(position=1)]))
    screen = await Screen.start(ctl, "acquire", "mvoice")
    await screen.wait_for("mvoice: waiting: mvoice is leased (")
    loading = [samples.consumer("comfyui", "unloading"), samples.consumer("mvoice", "loading")]
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[], consumers=loading))
    await screen.wait_for("mvoice: comfyui is unloading; loading (")
    release.set()
    assert await screen.end() == 0
    after = screen.text.rpartition("\r\x1b[K")[2]
    details = "mvoice on GPU 0: loaded, granted after 1.2 s; evicted comfyui; http://127.0.0.1:9200"
    assert after.split("\r\n") == [LEASE, details, ""]


def waiting(**changes: Any) -> dict[str, Any]:
    return samples.waiting(consumer="mvoice", owner_uid=os.getuid(), waited_usec=400_000, **changes)


async def granted_after(release: asyncio.Event) -> Reply:
    await release.wait()
    return Reply("sa{sv}", (LEASE, variants(grant())))


async def test_verbose_progress_without_a_terminal_is_one_line_per_change(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = never
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[waiting(position=1)]))
    process = await ctl.start("-v", "acquire", "mvoice")
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_SEC):
        first = (await process.stderr.readline()).decode()
    assert first.startswith("mvoice: waiting: mvoice is leased (")
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[waiting(waiting_for="its turn")]))
    async with asyncio.timeout(LIMIT_SEC):
        second = (await process.stderr.readline()).decode()
    assert second.startswith("mvoice: waiting: its turn (")
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).err == ""


async def test_quiet_shows_no_progress(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = never
    screen = await Screen.start(ctl, "acquire", "mvoice", "--quiet")
    async with asyncio.timeout(LIMIT_SEC):
        await manager.acquiring.wait()
    screen.type(b"\x03")
    assert await screen.end() == 130
    assert screen.text.replace("^C", "").strip() == ""


@pytest.mark.parametrize("command", [("acquire", "mvoice"), ("load", "mvoice"), ("status",), ("evict", "mvoice")])
async def test_ctrl_c_while_waiting_exits_130_and_closes_the_connection(
    ctl: Ctl, manager: ScriptedManager, command: tuple[str, ...]
) -> None:
    call_arrived = asyncio.Event()
    callers: list[str] = []

    def wait(call: IncomingCall) -> Awaitable[Reply]:
        callers.append(call.sender)
        call_arrived.set()
        return never(call)

    for member in ("Acquire", "Load", "Evict", "GetStatus"):
        manager.answers[member] = wait
    process = await ctl.start(*command)
    async with asyncio.timeout(LIMIT_SEC):
        await call_arrived.wait()
    process.send_signal(signal.SIGINT)
    result = await finished(process)
    assert (result.code, result.out, result.err.strip()) == (130, "", "")
    await manager.wait_gone(callers[0])


async def test_a_bus_that_dies_during_a_call_is_reported(ctl: Ctl, bus: PrivateBus, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = never
    process = await ctl.start("acquire", "mvoice")
    async with asyncio.timeout(LIMIT_SEC):
        await manager.acquiring.wait()
    bus.kill()
    result = await finished(process)
    assert (result.code, result.out) == (1, "")
    assert "the connection to the bus was lost" in result.err


async def start_monitor(ctl: Ctl, manager: ScriptedManager, *args: str) -> asyncio.subprocess.Process:
    """Start a monitor and wait until it listens: it reads the version right after it has subscribed."""
    listening = asyncio.Event()
    plain = manager.answers["Get"]

    def get(call: IncomingCall) -> Reply | Awaitable[Reply]:
        listening.set()
        return plain(call)

    manager.answers["Get"] = get
    process = await ctl.start("monitor", *args)
    async with asyncio.timeout(LIMIT_SEC):
        await listening.wait()
    return process


async def test_monitor_prints_signals_with_times_until_ctrl_c(ctl: Ctl, manager: ScriptedManager) -> None:
    process = await start_monitor(ctl, manager)
    manager.emit("LeaseGranted", "ss", LEASE, "mvoice")
    manager.emit_changed("/org/gpumand1/consumer/mvoice", CONSUMER, LastUsedUsec=1)
    manager.emit_changed("/org/gpumand1/consumer/mvoice", CONSUMER, Residency="resident")
    manager.emit("LeaseEnded", "sss", LEASE, "mvoice", "released")
    lines = [await line_of(process) for _ in range(3)]
    assert [line[14:] for line in lines] == [
        f"lease on mvoice granted: {LEASE}",
        "mvoice is resident",
        f"lease on mvoice ended (released): {LEASE}",
    ]
    assert all(line[2] == line[5] == ":" and line[8] == "." for line in lines)
    process.send_signal(signal.SIGINT)
    result = await finished(process)
    assert (result.code, result.out, result.err) == (130, "", "")


async def test_monitor_as_json_prints_one_document_per_line(ctl: Ctl, manager: ScriptedManager) -> None:
    process = await start_monitor(ctl, manager, "--json")
    details = {"duration_usec": 5, "why": "used least recently"}
    manager.emit("EvictionOccurred", "sstssa{sv}", "comfyui", "0", 13312, "http", "llm", variants(details))
    manager.emit_changed("/org/gpumand1", MANAGER, Degraded="nvml-hangs: no answer")
    manager.emit("Novelty", "s", "x")
    events = [json.loads(await line_of(process)) for _ in range(3)]
    assert [event.pop("time_usec") > 0 for event in events] == [True] * 3
    assert events[0] == {
        "signal": "EvictionOccurred",
        "consumer": "comfyui",
        "device": "0",
        "freed_mib": 13312,
        "method": "http",
        "trigger": "llm",
        "details": details,
    }
    assert events[1]["changed"] == {"Degraded": "nvml-hangs: no answer"}
    assert events[2] == {"signal": "Novelty", "arguments": ["x"]}
    process.send_signal(signal.SIGINT)
    await finished(process)


async def test_monitor_reports_a_restart_of_the_daemon_and_continues(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await start_monitor(ctl, manager)
    await manager.close()
    assert (await line_of(process)).endswith("gpumand left the bus")
    again = await ScriptedManager.start(bus.address)
    assert (await line_of(process)).endswith("gpumand is on the bus")
    again.emit("LeaseGranted", "ss", LEASE, "mvoice")
    assert (await line_of(process)).endswith(LEASE)
    await again.close()
    bus.kill()
    result = await finished(process)
    assert result.code == 1
    assert "the connection to the bus was lost" in result.err


async def test_monitor_without_a_daemon_exits_3(ctl: Ctl) -> None:
    result = await ctl("monitor")
    assert (result.code, result.out) == (3, "")
