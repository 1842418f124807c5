"""gpumanctl against the real daemon, with the example services of the demo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gpumand.demo.environment import DemoEnvironment
from gpumand.version import VERSION
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, Screen, finished


@pytest.fixture
async def ctl() -> AsyncIterator[Ctl]:
    async with DemoEnvironment() as environment:
        yield Ctl(environment.address)


async def status(ctl: Ctl) -> dict[str, Any]:
    result = await ctl("--json")
    assert (result.code, result.err) == (0, "")
    answer: dict[str, Any] = json.loads(result.out)
    return answer


async def test_acquire_renew_and_release_from_a_shell(ctl: Ctl) -> None:
    assert (await ctl("version")).out == f"gpumanctl {VERSION}\ngpumand {VERSION}\n"
    taken = await ctl("acquire", "mvoice", "--ttl", "5min", "--reason", "a poem", "--token", "t1")
    lease = taken.out.strip()
    assert (taken.code, taken.err) == (0, "")
    (entry,) = (await status(ctl))["leases"]
    assert (entry["id"], entry["consumer"], entry["reason"], entry["lifetime"]) == (lease, "mvoice", "a poem", "ttl")
    assert (await ctl("acquire", "mvoice", "--token", "t1")).out.strip() == lease
    assert (await ctl("renew", lease, "--ttl", "1h")).out.startswith("ends in ")
    busy = await ctl("acquire", "llm", "--no-wait")
    assert (busy.code, busy.out) == (1, "")
    offered = await ctl("release", "mvoice")
    assert (offered.code, offered.out) == (4, "")
    assert f"    gpumanctl release {lease[:6]}" in offered.err.splitlines()
    assert (await ctl("renew", lease[:6])).code == 0
    assert (await ctl("release", lease[:6])).code == 0
    assert (await status(ctl))["leases"] == []
    gone = await ctl("release", lease)
    assert gone.code == 4
    assert len(gone.err.splitlines()) == 1


async def test_plan_load_evict_pin(ctl: Ctl) -> None:
    assert (await ctl("load", "mvoice")).out.startswith("mvoice loaded on GPU 0 in ")
    assert (await ctl("load", "mvoice")).out == "mvoice is already resident on GPU 0\n"
    plan = json.loads((await ctl("plan", "llm", "--json")).out)
    assert (plan["consumer"], plan["verdict"], plan["evictions"]) == ("llm", "grant", [])
    assert (await ctl("pin", "mvoice")).code == 0
    assert {one["name"]: one["pinned"] for one in (await status(ctl))["consumers"]}["mvoice"] is True
    refused = await ctl("evict", "mvoice")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "gpumanctl: mvoice is pinned. Unpin it, or use --force.\n"
    forced = await ctl("evict", "mvoice", "--force")
    assert forced.out.startswith("mvoice evicted by http, 2.8 GiB freed in ")
    assert (await ctl("unpin", "mvoice")).code == 0
    assert (await ctl("evict", "mvoice")).out == "mvoice is not loaded\n"


@pytest.mark.parametrize("command", ["acquire", "plan", "load", "evict", "pin", "unpin"])
async def test_an_unknown_consumer_exits_4(ctl: Ctl, command: str) -> None:
    result = await ctl(command, "missing")
    assert (result.code, result.out) == (4, "")
    (line,) = result.err.splitlines()
    assert "missing" in line


@pytest.mark.parametrize("command", ["acquire", "plan", "load", "evict", "pin", "unpin"])
async def test_a_misspelled_consumer_comes_with_the_nearest_name(ctl: Ctl, command: str) -> None:
    assert (await ctl(command, "mVoise")).err == "gpumanctl: no consumer is named 'mVoise'; did you mean mvoice?\n"


async def test_run_holds_a_lease_as_long_as_its_command(ctl: Ctl) -> None:
    process = await ctl.start("run", "mvoice", "--", "sh", "-c", "echo $GPUMAND_LEASE; read -r _; exit 3")
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_SEC):
        first = await process.stdout.readline()
    result = await finished(process)
    assert (result.code, len(first.strip())) == (3, 20)
    assert (await status(ctl))["leases"] == []


async def test_a_killed_run_leaves_no_lease(ctl: Ctl) -> None:
    process = await ctl.start("run", "mvoice", "--", "sh", "-c", "echo $$; exec sleep 60")
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_SEC):
        child = int(await process.stdout.readline())
    assert len((await status(ctl))["leases"]) == 1
    process.kill()
    os.kill(child, signal.SIGKILL)
    await finished(process)
    async with asyncio.timeout(LIMIT_SEC):
        while (await status(ctl))["leases"]:
            continue


async def test_a_waiting_acquire_shows_its_reason_and_ctrl_c_withdraws_it(ctl: Ctl) -> None:
    lease = (await ctl("acquire", "mvoice")).out.strip()
    screen = await Screen.start(ctl, "acquire", "llm", "--wait")
    await screen.wait_for("llm: waiting: ")
    assert [one["consumer"] for one in (await status(ctl))["queue"]] == ["llm"]
    screen.type(b"\x03")
    assert await screen.end() == 130
    assert (await status(ctl))["queue"] == []
    await ctl("release", lease)


async def test_run_ends_the_command_when_its_lease_is_revoked(ctl: Ctl) -> None:
    process = await ctl.start("run", "--kill-on-loss", "mvoice", "--", "sh", "-c", "echo up; exec sleep 60")
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_SEC):
        await process.stdout.readline()
    assert (await ctl("evict", "mvoice", "--force")).code == 0
    result = await finished(process)
    assert result.code == -signal.SIGTERM
    assert result.err == "gpumanctl: the lease on mvoice was lost: revoked; ending sh\n"


async def test_monitor_prints_the_daemons_signals(ctl: Ctl) -> None:
    process = await ctl.start("monitor", "--json")
    assert process.stdout is not None
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(LIMIT_SEC):
        while not events:
            lease = (await ctl("acquire", "mvoice")).out.strip()
            await ctl("release", lease)
            events = await _read_until_ended(process.stdout, lease)
    assert {"LeaseGranted", "LeaseEnded"} <= {event["signal"] for event in events}
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 130


async def _read_until_ended(stream: asyncio.StreamReader, lease: str) -> list[dict[str, Any]]:
    """Events up to the end of this lease; none when the monitor was not listening yet."""
    events: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(2):
            while not events or (events[-1]["signal"], events[-1].get("lease")) != ("LeaseEnded", lease):
                events.append(json.loads(await stream.readline()))
    except TimeoutError:
        return []
    return events


async def test_reload_reads_the_configuration_again(ctl: Ctl) -> None:
    assert (await ctl("reload")).code == 0
