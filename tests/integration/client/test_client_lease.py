"""``async with lease(...)`` against the real daemon."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Any

import pytest

from gpumand.client import (
    BusUnavailable,
    Busy,
    Client,
    InsufficientVram,
    InvalidArgs,
    NoSuchConsumer,
    NoSuchDevice,
    NotRunning,
    TimedOut,
    lease,
)
from gpumand.testing.bus import PrivateBus
from gpumand.testing.daemon import PrivateGpumand
from gpumand.testing.vram_announcement import Announcement
from tests.integration.client.waiting import DEADLINE_SEC, status_where


async def test_block_holds_a_lease_and_releases_it(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        async with lease("comfyui", reason="poster", bus=gpumand.address) as held:
            (active,) = (await client.status()).leases
            assert (active.id, active.consumer, active.lifetime) == (held.id, "comfyui", "connection")
            assert (active.reason, active.device) == ("poster", held.device)
            assert held.endpoint == gpumand.urls["comfyui"]
            assert held.expires_at is None
            assert not held.ended.is_set()
        assert (await client.status()).leases == ()
        assert held.ended.reason == "released"


async def test_grant_lists_evictions_and_load(gpumand: PrivateGpumand) -> None:
    async with lease("ollama", bus=gpumand.address):
        pass
    began = time.monotonic()
    async with lease("comfyui", bus=gpumand.address) as held:
        assert (held.consumer, held.evicted, held.loaded) == ("comfyui", ("ollama",), True)
        assert 0 < held.waited_sec < time.monotonic() - began
    async with lease("comfyui", bus=gpumand.address) as held:
        assert (held.evicted, held.loaded) == ((), False)


async def test_error_in_the_block_releases_the_lease_and_is_raised(gpumand: PrivateGpumand) -> None:
    with pytest.raises(ZeroDivisionError):
        async with lease("comfyui", bus=gpumand.address):
            raise ZeroDivisionError
    async with Client(gpumand.address) as client:
        assert (await client.status()).leases == ()


async def test_lease_without_async_is_a_type_error(gpumand: PrivateGpumand) -> None:
    wrong: Any = lease("comfyui", bus=gpumand.address)
    with pytest.raises(TypeError), wrong:
        pass


async def test_release_within_the_block_may_be_repeated(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client, client.lease("comfyui") as held:
        await held.release()
        assert (await client.status()).leases == ()
        await held.release()


async def test_refused_request_is_busy_without_waiting_and_timed_out_with(gpumand: PrivateGpumand) -> None:
    async with lease("comfyui", bus=gpumand.address):
        with pytest.raises(Busy):
            async with lease("ollama", timeout_sec=0, bus=gpumand.address):
                pass

        async def try_for_a_while() -> None:
            async with lease("ollama", timeout_sec=0.2, bus=gpumand.address):
                pass

        with pytest.raises(TimedOut):
            await asyncio.create_task(try_for_a_while())


async def test_wrong_arguments_have_their_own_errors(gpumand: PrivateGpumand) -> None:
    with pytest.raises(NoSuchConsumer, match="comfy"):
        async with lease("comfy", bus=gpumand.address):
            pass
    with pytest.raises(NoSuchDevice):
        async with lease("comfyui", device="7", bus=gpumand.address):
            pass
    with pytest.raises(InvalidArgs, match="priority"):
        async with lease("comfyui", priority=1000, bus=gpumand.address):
            pass


async def test_waiting_request_is_granted_when_the_first_lease_ends(gpumand: PrivateGpumand) -> None:
    async def second() -> tuple[str, ...]:
        async with lease("ollama", bus=gpumand.address) as held:
            return held.evicted

    async with Client(gpumand.address) as client:
        async with lease("comfyui", bus=gpumand.address):
            waiting = asyncio.create_task(second())
            await status_where(client, "ollama waits", queue=1)
        assert await waiting == ("comfyui",)


async def test_cancelled_wait_withdraws_the_request_at_once(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client, client.lease("comfyui"):

        async def try_for_a_while() -> None:
            async with asyncio.timeout(0.5), client.lease("ollama", timeout_sec=None):
                pytest.fail("granted although comfyui is leased")

        with pytest.raises(TimeoutError):
            await asyncio.create_task(try_for_a_while())
        await status_where(client, "no request waits", queue=0)


async def test_cancelled_block_releases_its_lease(gpumand: PrivateGpumand) -> None:
    is_held = asyncio.Event()

    async def work() -> None:
        async with lease("comfyui", bus=gpumand.address):
            is_held.set()
            await asyncio.Event().wait()

    async with Client(gpumand.address) as client:
        task = asyncio.create_task(work())
        await is_held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.status()).leases == ()


async def test_revoked_lease_has_the_reason_revoked(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client, client.lease("comfyui") as held:
        outcome = await client.evict("comfyui", force=True)
        assert outcome.changed
        assert await asyncio.wait_for(held.ended.wait(), DEADLINE_SEC) == "revoked"


async def test_killed_process_leaves_no_lease(gpumand: PrivateGpumand) -> None:
    program = (
        "import asyncio\nfrom gpumand.client import lease\n"
        "async def main():\n"
        f"    async with lease('comfyui', bus={gpumand.address!r}):\n"
        "        print('held', flush=True)\n        await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    async with Client(gpumand.address) as client:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        process.kill()
        await status_where(client, "no lease", leases=0)
        await process.communicate()


async def test_lease_survives_a_crash_of_the_daemon(own_gpumand: PrivateGpumand) -> None:
    async with lease("comfyui", bus=own_gpumand.address) as held:
        await asyncio.to_thread(own_gpumand.stop_daemon, signal.SIGKILL)
        await asyncio.to_thread(own_gpumand.start_daemon)
        async with Client(own_gpumand.address) as client:
            assert [one.id for one in (await client.status()).leases] == [held.id]
            assert not held.ended.is_set()
            await held.release()
            assert (await client.status()).leases == ()


async def test_waiting_request_survives_a_crash_of_the_daemon(own_gpumand: PrivateGpumand) -> None:
    async def second() -> tuple[str, ...]:
        async with lease("ollama", bus=own_gpumand.address) as held:
            return held.evicted

    async with Client(own_gpumand.address) as client:
        async with lease("comfyui", bus=own_gpumand.address):
            waiting = asyncio.create_task(second())
            await status_where(client, "ollama waits", queue=1)
            await asyncio.to_thread(own_gpumand.stop_daemon, signal.SIGKILL)
            await asyncio.to_thread(own_gpumand.start_daemon)
            await status_where(client, "ollama waits again", queue=1)
        assert await waiting == ("comfyui",)


async def test_lease_unknown_to_the_restarted_daemon_is_forgotten(own_gpumand: PrivateGpumand) -> None:
    async with lease("comfyui", bus=own_gpumand.address) as held:
        await asyncio.to_thread(own_gpumand.stop_daemon, signal.SIGKILL)
        (own_gpumand.folder / "state" / "leases" / f"{held.id}.json").unlink()
        await asyncio.to_thread(own_gpumand.start_daemon)
        assert await asyncio.wait_for(held.ended.wait(), DEADLINE_SEC) == "forgotten"


async def test_lost_bus_ends_the_lease_and_the_block_can_be_left() -> None:
    gpumand = await asyncio.to_thread(PrivateGpumand({"comfyui": 13312}).start)
    try:
        async with lease("comfyui", bus=gpumand.address) as held:
            await asyncio.to_thread(gpumand.close)
            assert await asyncio.wait_for(held.ended.wait(), DEADLINE_SEC) == "bus-lost"
    finally:
        await asyncio.to_thread(gpumand.close)


async def test_missing_daemon_is_not_running(bus: PrivateBus) -> None:
    with pytest.raises(NotRunning):
        async with lease("comfyui", bus=bus.address):
            pass


async def test_missing_bus_is_unavailable() -> None:
    with pytest.raises(BusUnavailable):
        async with lease("comfyui", bus="unix:path=/nonexistent/bus"):
            pass


async def test_insufficient_vram_names_the_foreign_process(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        await client.evict("comfyui")
    with Announcement(gpumand.simulated_dir, name="a-game") as game:
        game.set(9000)
        with pytest.raises(InsufficientVram, match="a-game"):
            async with lease("comfyui", bus=gpumand.address):
                pass
