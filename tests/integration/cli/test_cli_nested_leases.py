"""Leases inside leases on the command line: refused where they wait for themselves, or given back and restored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.integration.cli.ctl import COMMAND, Ctl
from tests.integration.cli.world import world
from tests.integration.live import wait_until

CTL = shlex.join(COMMAND)
QUICK = ("--load-sec", "0.2", "--unload-sec", "0.05")


async def leases(ctl: Ctl) -> list[dict[str, Any]]:
    return list(json.loads((await ctl("--json", "status")).out)["leases"])


async def residency(ctl: Ctl, name: str) -> str:
    consumers = json.loads((await ctl("--json", "status")).out)["consumers"]
    return next(str(one["residency"]) for one in consumers if one["name"] == name)


async def test_a_command_that_waits_for_its_own_lease_is_refused_at_once_and_named_the_way_out(tmp_path: Path) -> None:
    async with world(tmp_path, *QUICK) as (_, ctl):
        began = time.monotonic()
        result = await ctl("run", "llm", "--", "sh", "-c", f"echo $GPUMAND_LEASE; exec {CTL} acquire comfyui")

        lease = result.out.strip()
        assert (result.code, await leases(ctl)) == (1, [])
        assert time.monotonic() - began < 19, "the default timeout is 20 s"
        assert f"comfyui cannot be granted while lease {lease} on llm is active" in result.err
        assert f"gpumanctl acquire --yield {lease} comfyui" in result.err


async def test_a_command_may_lease_what_fits_beside_its_own_lease(tmp_path: Path) -> None:
    async with world(tmp_path, *QUICK) as (_, ctl):
        result = await ctl("run", "llm", "--", "sh", "-c", f"exec {CTL} acquire mvoice")

        assert (result.code, result.err) == (0, "")
        assert [one["consumer"] for one in await leases(ctl)] == ["mvoice"]


async def test_a_nested_run_gives_the_outer_consumer_back_and_ends_when_it_is_resident_again(tmp_path: Path) -> None:
    async with world(tmp_path, *QUICK) as (_, ctl):
        status = f"{CTL} --json status"
        inner = f'{CTL} run --yield "$GPUMAND_LEASE" comfyui -- {status} && {status}'
        result = await ctl("run", "llm", "--", "sh", "-c", inner)

        assert (result.code, result.err) == (0, "")
        decoder, during_end = json.JSONDecoder(), 0
        during, during_end = decoder.raw_decode(result.out)
        after, _ = decoder.raw_decode(result.out[during_end:].lstrip())
        assert {one["name"]: one["residency"] for one in during["consumers"]}["comfyui"] == "resident"
        by_consumer = {one["consumer"]: one for one in during["leases"]}
        assert by_consumer["llm"]["yielded"] is True
        assert by_consumer["comfyui"]["yields"] == by_consumer["llm"]["id"]
        assert {one["name"]: one["residency"] for one in after["consumers"]}["llm"] == "resident"
        assert [(one["consumer"], one.get("yielded", False)) for one in after["leases"]] == [("llm", False)]


async def test_a_nested_run_that_is_killed_restores_the_outer_lease(tmp_path: Path) -> None:
    async with world(tmp_path, *QUICK) as (_, ctl):
        outer = (await ctl("acquire", "llm")).out.strip()
        process = await ctl.start("run", "--yield", outer[:6], "comfyui", "--", "sh", "-c", "echo up; exec sleep 60")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        assert await residency(ctl, "llm") == "unloaded"

        process.kill()
        await process.wait()

        async def is_restored() -> bool:
            active = await leases(ctl)
            return [one["id"] for one in active] == [outer] and not active[0].get("yielded")

        await wait_until("the lease on llm has its consumer again", is_restored)
        assert await residency(ctl, "llm") == "resident"


async def test_a_given_back_lease_is_restored_after_a_restart_of_the_daemon_that_ended_the_nested_one(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, *QUICK) as (host, ctl):
        outer = (await ctl("acquire", "llm")).out.strip()
        process = await ctl.start("run", "--yield", outer, "comfyui", "--", "sh", "-c", "echo up; exec sleep 60")
        assert process.stdout is not None
        await process.stdout.readline()
        await host.end(signal.SIGKILL)
        process.kill()
        await process.wait()

        await host.start()

        async def is_restored() -> bool:
            active = await leases(ctl)
            return [one["id"] for one in active] == [outer] and not active[0].get("yielded")

        await wait_until("the lease on llm has its consumer again", is_restored)
        assert await residency(ctl, "llm") == "resident"


async def test_an_exclusive_lease_is_shown_and_keeps_others_waiting(tmp_path: Path) -> None:
    async with world(tmp_path, *QUICK) as (_, ctl):
        await ctl("load", "mvoice")
        alone = await ctl("acquire", "--exclusive", "llm")
        other = await ctl("acquire", "mvoice", "--timeout", "300ms")
        table = await ctl("status")
        await ctl("release", alone.out.strip())
        afterwards = await ctl("acquire", "mvoice")

    assert (alone.code, other.code, afterwards.code) == (0, 1, 0)
    assert "device 0 is leased exclusively to llm" in other.err
    assert "exclusive" in table.out


async def test_monitor_prints_that_a_lease_is_given_back_and_restored(tmp_path: Path) -> None:
    async with world(tmp_path, *QUICK) as (_, ctl):
        outer = (await ctl("acquire", "llm")).out.strip()
        monitor = await ctl.start("monitor")
        assert monitor.stdout is not None
        lines: list[str] = []

        async def read_until(text: str) -> None:
            async with asyncio.timeout(20):
                while not lines or text not in lines[-1]:
                    lines.append((await monitor.stdout.readline()).decode())  # type: ignore[union-attr]

        async def has_printed() -> bool:
            await ctl("pin", "mvoice")
            await ctl("unpin", "mvoice")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    return bool(await monitor.stdout.readline())  # type: ignore[union-attr]
            return False

        await wait_until("monitor receives signals", has_printed)
        await ctl("run", "--yield", outer, "comfyui", "--", sys.executable, "-c", "")
        await read_until(f"llm is resident again for lease {outer}")
        monitor.terminate()
        await monitor.wait()

    assert any("llm is given back for a nested lease" in line for line in lines)
