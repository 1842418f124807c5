"""Leases without a consumer on a real bus: gpumanctl, the Python clients, real processes, kills of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus import names
from gpumand.bus.variants import unwrap
from gpumand.client import Client as PythonClient
from gpumand.client import InsufficientVram, InvalidArgs, lease, lease_sync
from tests.integration.cli.ctl import Ctl, finished
from tests.integration.cli.world import world
from tests.integration.live import TOTAL_MIB, Client, LiveHost, error_of, wait_until

CONNECTION = ("s", "connection")

# Holds MIB of simulated VRAM in a child process of its own until a line arrives, and prints when it is announced.
PROGRAM = """
import os, subprocess, sys
from gpumand.testing.vram_announcement import Announcement
folder, mib = sys.argv[1], int(sys.argv[2])
if len(sys.argv) < 4:
    sys.exit(subprocess.call([sys.executable, sys.argv[0], folder, str(mib), "child"]))
with Announcement(folder) as announcement:
    announcement.set(mib)
    print("holding", os.environ.get("GPUMAND_DEVICE"), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.readline()
"""


@contextlib.asynccontextmanager
async def host_and_ctl(folder: Path) -> AsyncIterator[tuple[LiveHost, Ctl, list[str]]]:
    """A GPU with 24 GiB and three consumers, gpumanctl, and the command line of a program that holds VRAM."""
    async with world(folder) as (host, ctl):
        script = folder / "program.py"
        script.write_text(PROGRAM, encoding="utf-8")
        yield host, ctl, [sys.executable, str(script), str(host.simulator)]


async def started(ctl: Ctl, *args: str) -> asyncio.subprocess.Process:
    """Start gpumanctl with a standard input, in a process group of its own."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "gpumand.cli", *args)
    return await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=ctl.env(), start_new_session=True
    )


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def device(client: Client) -> dict[str, Any]:
    return dict((await client.status())["devices"][0])


async def counts(client: Client, *, reserved_mib: int, foreign_mib: int) -> bool:
    shown = await device(client)
    return (shown["reserved_mib"], shown["foreign_mib"]) == (reserved_mib, foreign_mib)


async def counts_soon(client: Client, *, reserved_mib: int, foreign_mib: int) -> None:
    what = f"{reserved_mib} MiB reserved, {foreign_mib} MiB foreign"
    await wait_until(what, lambda: counts(client, reserved_mib=reserved_mib, foreign_mib=foreign_mib))


async def test_run_reserves_vram_and_the_memory_of_its_command_counts_once(tmp_path: Path) -> None:
    async with host_and_ctl(tmp_path) as (host, ctl, program):
        client = await host.client(listen=True)
        await client.acquire("comfyui")
        first = (await client.status())["leases"][0]["id"]
        await client.release(first)

        process = await started(ctl, "run", "--vram", "12G", "--reason", "training", "--", *program, "9000")
        assert await line_of(process) == "holding 0 None"
        await counts_soon(client, reserved_mib=12288 - 9000, foreign_mib=0)

        (lease_entry,) = (await client.status())["leases"]
        assert (lease_entry["consumer"], lease_entry["vram_mib"], lease_entry["all"]) == ("", 12288, False)
        assert (lease_entry["used_mib"], lease_entry["reason"]) == (9000, "training")
        assert [body[0] for body in client.received("EvictionOccurred")] == ["comfyui"]
        assert client.received("EvictionOccurred")[0][4] == "reservation"
        shown = await ctl("status")
        assert "12.0 GiB" in shown.out
        assert "holds 8.8 GiB" in shown.out

        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert (await finished(process)).code == 0
        await wait_until("the lease has ended", lambda: has_leases(client, 0))
        assert client.received("LeaseGranted")[-1] == (lease_entry["id"], "")
        assert client.received("LeaseEnded")[-1] == (lease_entry["id"], "", "released")
        await client.close()


async def has_leases(client: Client, count: int) -> bool:
    return len((await client.status())["leases"]) == count


async def test_reservation_and_its_program_survive_a_kill_of_the_daemon(tmp_path: Path) -> None:
    async with host_and_ctl(tmp_path) as (host, ctl, program):
        process = await started(ctl, "run", "--vram", "12G", "--", *program, "9000")
        assert (await line_of(process)).startswith("holding")
        client = await host.client()
        (before,) = (await client.status())["leases"]

        await host.end(signal.SIGKILL)
        await host.start()

        (after,) = (await client.status())["leases"]
        assert after == before | {"used_mib": 9000}
        await counts_soon(client, reserved_mib=12288 - 9000, foreign_mib=0)
        refused = await error_of(client.acquire("llm", timeout_usec=("t", 500_000)))
        assert refused.name.endswith(".TimedOut")
        assert "reservation" in refused.message

        process.kill()
        await wait_until("the lease has ended", lambda: has_leases(client, 0))
        await counts_soon(client, reserved_mib=0, foreign_mib=9000)
        os.killpg(process.pid, signal.SIGKILL)  # the program that outlived it
        await finished(process)
        await client.close()


async def test_reservation_of_a_client_that_left_during_a_restart_has_ended(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, _):
        owner, other = await host.client(), await host.client()
        await owner.acquire("", vram_mib=("u", 20000), lifetime=CONNECTION)
        await host.end(signal.SIGKILL)
        await owner.close()
        await host.start()
        assert (await other.status())["leases"] == []
        await other.acquire("llm", timeout_usec=("t", 20_000_000))
        await other.close()


async def test_script_that_acquires_vram_is_followed_beyond_the_end_of_gpumanctl(tmp_path: Path) -> None:
    async with host_and_ctl(tmp_path) as (host, ctl, program):
        acquire = shlex.join([sys.executable, "-m", "gpumand.cli", "acquire", "--vram", "8G"])
        release = shlex.join([sys.executable, "-m", "gpumand.cli", "release"])
        script = f'set -e; lease=$({acquire}); {shlex.join([*program, "5000"])}; {release} "$lease"'
        pipe = asyncio.subprocess.PIPE
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", script, stdin=pipe, stdout=pipe, stderr=pipe, env=ctl.env(), start_new_session=True
        )
        assert (await line_of(shell)).startswith("holding")
        client = await host.client()
        await counts_soon(client, reserved_mib=8192 - 5000, foreign_mib=0)
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        assert (await finished(shell)).code == 0
        assert (await client.status())["leases"] == []
        await client.close()


async def test_lease_object_of_a_reservation_says_what_is_reserved(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, _):
        client = await host.client()
        lease_id, grant = await client.acquire("", vram_mib=("u", 5000), lifetime=CONNECTION)
        assert (unwrap(grant["consumer"]), unwrap(grant["vram_mib"]), unwrap(grant["all"])) == ("", 5000, False)
        call = (names.BUS_NAME, names.ROOT_PATH, names.OBJECT_MANAGER, "GetManagedObjects")
        (objects,) = unwrap(list(await client.bus.call(*call, timeout_sec=30.0)))
        properties = objects[f"{names.LEASE_PREFIX}{lease_id}"][names.LEASE]
        assert (properties["Consumer"], properties["VramMib"], properties["WholeDevice"]) == ("", 5000, False)
        assert properties["Program"]
        assert len([path for path in objects if path.startswith(names.CONSUMER_PREFIX)]) == 3
        await client.close()


@pytest.mark.parametrize(
    ("consumer", "options", "words"),
    [
        ("", {}, "set option 'vram_mib' or 'all'"),
        ("", {"vram_mib": ("u", 0)}, "from 1 to"),
        ("", {"vram_mib": ("t", 2**60)}, "from 1 to"),
        ("", {"vram_mib": ("s", "12G")}, "must be an integer"),
        ("", {"vram_mib": ("u", 1), "all": ("b", True)}, "exclude each other"),
        ("llm", {"vram_mib": ("u", 1)}, "needs an empty consumer name"),
    ],
)
async def test_wrong_amounts_are_refused(tmp_path: Path, consumer: str, options: Any, words: str) -> None:
    async with world(tmp_path) as (host, _):
        client = await host.client()
        error = await error_of(client.acquire(consumer, **options))
        assert error.name.endswith(".InvalidArgs")
        assert words in error.message
        await client.close()


async def test_plan_of_a_reservation_names_the_evictions_and_keeps_everything(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        client = await host.client()
        lease_id, _ = await client.acquire("comfyui")
        await client.release(lease_id)

        shown = await ctl("plan", "--vram", "16G")
        assert "reservation: would be granted on GPU 0 after 1 eviction" in shown.out
        assert "comfyui" in shown.out
        answer = json.loads((await ctl("plan", "--all", "--json")).out)
        assert (answer["consumer"], [one["consumer"] for one in answer["evictions"]]) == ("", ["comfyui"])
        assert (await client.consumer("comfyui"))["residency"] == "resident"
        await client.close()


async def test_hold_clears_the_gpu_until_ctrl_c(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        client = await host.client()
        lease_id, _ = await client.acquire("comfyui")
        await client.release(lease_id)

        process = await started(ctl, "hold", "--reason", "game")
        lines = [await line_of(process) for _ in range(4)]
        assert lines[0].startswith("reserved: whole GPU on GPU 0 (lease ")
        assert lines[1] == "evicted: comfyui"
        assert lines[2] == f"GPU 0: {TOTAL_MIB / 1024:.1f} GiB of {TOTAL_MIB / 1024:.1f} GiB free"
        assert lines[3] == "held until Ctrl-C"
        blocked = await error_of(client.acquire("mvoice", timeout_usec=("t", 500_000)))
        assert "reserved whole" in blocked.message

        process.send_signal(signal.SIGINT)
        assert (await finished(process)).code == 0
        assert (await client.status())["leases"] == []
        await client.close()


async def test_hold_ends_after_its_time_and_says_when_it_is_lost(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        short = await ctl("hold", "--vram", "4G", "--for", "100ms")
        assert (short.code, short.err) == (0, "")
        assert "4.0 GiB on GPU 0" in short.out
        assert "held for 0.1 s, or until Ctrl-C" in short.out

        process = await started(ctl, "hold", "--vram", "4G")
        await line_of(process)
        client = await host.client()
        (entry,) = (await client.status())["leases"]
        await client.release(entry["id"])
        lost = await finished(process)
        assert (lost.code, "the reservation was lost" in lost.err) == (1, True)
        await client.close()


async def test_python_clients_reserve_vram(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, _):
        address = host.bus.address
        async with PythonClient(bus=address) as client:
            async with lease(vram_mib=5000, reason="notebook", bus=address) as held:
                (active,) = (await client.status()).leases
                assert (active.id, active.consumer, active.vram_mib, active.all) == (held.id, "", 5000, False)
                assert (held.vram_mib, held.all, held.consumer, held.loaded) == (5000, False, "", False)
            async with client.lease(all=True) as held:
                assert (held.vram_mib, held.all) == (None, True)
                assert (await client.plan(vram_mib=100)).verdict == "wait"
            grant = await client.acquire(vram_mib=3000, ttl_sec=60)
            assert grant.expires_at is not None
            assert await client.renew(grant.id, 120) is not None
            await client.release(grant.id)
            with pytest.raises(InsufficientVram):
                await client.acquire(vram_mib=2 * TOTAL_MIB)
            for wrong in ({}, {"vram_mib": 0}, {"vram_mib": 1, "all": True}, {"vram_mib": 1.5}):
                with pytest.raises(InvalidArgs):
                    await client.acquire(**wrong)
            with pytest.raises(InvalidArgs, match="leave out the consumer"):
                await client.acquire("llm", vram_mib=1)

        def reserve() -> tuple[int | None, str]:
            with lease_sync(vram_mib=4000, bus=address) as held:
                return held.vram_mib, held.device

        assert await asyncio.to_thread(reserve) == (4000, "0")
