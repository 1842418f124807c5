"""``Client``: every call against the real daemon, and answers that only a scripted daemon gives."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta

import pytest

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.client import (
    BusUnavailable,
    Client,
    ConfigInvalid,
    GpumandError,
    InvalidArgs,
    Mismatch,
    NoAnswer,
    NoSuchConsumer,
    NoSuchLease,
    NotRunning,
    lease,
)
from gpumand.client.values import Event, Eviction, LeaseEnded, LeaseGranted, RunningChanged
from gpumand.testing.bus import PrivateBus
from gpumand.testing.daemon import PrivateGpumand
from gpumand.version import VERSION
from tests.integration.cli.manager import ScriptedManager, dictionary, failing, never, replying
from tests.integration.client.waiting import DEADLINE_SEC, status_where


async def test_status_has_devices_and_consumers(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        await client.load("comfyui")
        status = await client.status()
        assert (status.version, await client.version(), status.degraded) == (VERSION, VERSION, "")
        (device,) = status.devices
        assert (device.index, device.source, device.total_mib) == (0, "simulated", 16384)
        comfyui = status.consumer("comfyui")
        assert comfyui is not None
        assert (comfyui.residency, comfyui.vram_resident_mib, comfyui.leases) == ("resident", 13312, 0)
        assert comfyui.endpoint == gpumand.urls["comfyui"]
        assert status.stats["loads"] >= 1


async def test_ttl_lease_outlives_the_client_and_can_be_renewed_and_released(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        grant = await client.acquire("comfyui", ttl_sec=60, reason="nightly")
    async with Client(gpumand.address) as client:
        assert [one.id for one in (await client.status()).leases] == [grant.id]
        expires = await client.renew(grant.id, 3600)
        assert expires is not None
        assert timedelta(minutes=50) < expires - datetime.now(UTC) < timedelta(minutes=61)
        await client.release(grant.id)
        with pytest.raises(NoSuchLease):
            await client.release(grant.id)
        with pytest.raises(NoSuchLease):
            await client.renew(grant.id)


async def test_same_token_returns_the_same_lease(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        first = await client.acquire("comfyui", token="mine")
        again = await client.acquire("comfyui", token="mine")
        assert first.id == again.id
        await client.release(first.id)


async def test_cancelled_acquire_withdraws_the_request(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client, client.lease("comfyui"):
        task = asyncio.create_task(client.acquire("ollama"))
        await status_where(client, "ollama waits", queue=1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await status_where(client, "no request waits", queue=0)


async def test_acquire_refuses_the_lifetime_connection(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        with pytest.raises(InvalidArgs, match="lease"):
            await client.acquire("comfyui", lifetime="connection")


async def test_plan_lists_the_evictions_of_a_request(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        await client.load("comfyui")
        plan = await client.plan("ollama")
        assert (plan.verdict, plan.load, plan.need_mib) == ("grant", True, 6400)
        assert [(one.consumer, one.expected_mib) for one in plan.evictions] == [("comfyui", 13312)]
        async with client.lease("comfyui"):
            plan = await client.plan("ollama", priority=50)
            assert (plan.verdict, plan.evictions) == ("wait", ())
        with pytest.raises(NoSuchConsumer):
            await client.plan("missing")


async def test_load_and_evict(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        await client.load("comfyui")
        outcome = await client.load("ollama")
        assert (outcome.changed, outcome.evicted) == (True, ("comfyui",))
        outcome = await client.evict("ollama", method="http")
        assert (outcome.changed, outcome.freed_mib, outcome.method) == (True, 6144, "http")
        assert not (await client.evict("ollama")).changed


async def test_pinned_consumer_is_not_evicted_until_it_is_unpinned(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        await client.load("comfyui")
        await client.pin("comfyui")
        assert (await client.plan("ollama")).evictions == ()
        await client.unpin("comfyui")
        assert [one.consumer for one in (await client.plan("ollama")).evictions] == ["comfyui"]


async def test_reload_of_an_invalid_configuration_names_the_key(own_gpumand: PrivateGpumand) -> None:
    async with Client(own_gpumand.address) as client:
        await client.reload()
        (own_gpumand.folder / "gpumand.toml").write_text("[scheduler]\ncushion = 1\n")
        with pytest.raises(ConfigInvalid, match="cushion"):
            await client.reload()


async def test_history_is_newest_first_and_filtered(gpumand: PrivateGpumand) -> None:
    before = datetime.now(UTC)
    async with Client(gpumand.address) as client:
        async with client.lease("ollama") as held:
            pass
        entries = await client.history(since=before, consumer="ollama", kinds=["grant", "end"])
        assert [(one.kind, one.lease, one.detail) for one in entries] == [
            ("end", held.id, "released"),
            ("grant", held.id, ""),
        ]
        assert all(one.at is not None and one.at >= before for one in entries)
        assert len(await client.history(limit=1)) == 1
        assert await client.history(until=before - timedelta(days=1)) == ()


async def test_watch_yields_events_in_order(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        await client.load("comfyui")
        async with client.watch() as events:
            async with client.lease("ollama") as held:
                pass
            received: list[Event] = [await anext(events) for _ in range(3)]
    eviction, granted, ended = received
    assert isinstance(eviction, Eviction)
    assert (eviction.consumer, eviction.trigger, eviction.freed_mib) == ("comfyui", "ollama", 13312)
    assert granted == LeaseGranted(held.id, "ollama")
    assert ended == LeaseEnded(held.id, "ollama", "released")


async def test_watch_continues_after_a_restart_of_the_daemon(own_gpumand: PrivateGpumand) -> None:
    async with Client(own_gpumand.address) as client, client.watch() as events:
        await asyncio.to_thread(own_gpumand.stop_daemon, signal.SIGKILL)
        assert await asyncio.wait_for(anext(events), DEADLINE_SEC) == RunningChanged(False)
        with pytest.raises(NotRunning):
            await client.status()
        await asyncio.to_thread(own_gpumand.start_daemon)
        assert await asyncio.wait_for(anext(events), DEADLINE_SEC) == RunningChanged(True)
        assert (await client.status()).version == VERSION
        async with client.lease("comfyui"):
            assert isinstance(await asyncio.wait_for(anext(events), DEADLINE_SEC), LeaseGranted)


async def test_watch_raises_the_same_error_repeatedly_after_the_bus_is_lost(bus: PrivateBus) -> None:
    async with Client(bus.address) as client, client.watch() as events:
        await asyncio.to_thread(bus.kill)
        for _ in range(2):
            with pytest.raises(BusUnavailable):
                await asyncio.wait_for(anext(events), DEADLINE_SEC)
        with pytest.raises(BusUnavailable):
            await client.status()


@pytest.mark.parametrize("answer", [replying(""), replying("s", "text"), dictionary({"version": "1"})])
async def test_answer_of_another_form_is_a_mismatch(bus: PrivateBus, manager: ScriptedManager, answer: object) -> None:
    manager.answers |= {"GetStatus": answer, "Plan": answer, "Acquire": answer, "GetHistory": answer}  # type: ignore[dict-item]  # of any shape
    async with Client(bus.address) as client:
        for call in (client.status(), client.plan("comfyui"), client.acquire("comfyui"), client.history()):
            with pytest.raises(Mismatch):
                await call


async def test_unknown_error_keeps_its_name(bus: PrivateBus, manager: ScriptedManager) -> None:
    class MoonIsFull(GpumandError):
        dbus_name = "org.gpumand1.Error.MoonIsFull"

    manager.answers["Acquire"] = failing(MoonIsFull("wait for the next"))
    with pytest.raises(GpumandError, match="wait for the next") as caught:
        async with lease("mvoice", bus=bus.address):
            pass
    assert caught.value.dbus_name == "org.gpumand1.Error.MoonIsFull"


async def test_daemon_that_leaves_during_a_call_is_no_answer(bus: PrivateBus, manager: ScriptedManager) -> None:
    called = asyncio.Event()

    async def wait(call: IncomingCall) -> Reply:
        called.set()
        return await never(call)

    manager.answers["Release"] = wait
    async with Client(bus.address) as client:
        releasing = asyncio.create_task(client.release("f00d"))
        await asyncio.wait_for(called.wait(), DEADLINE_SEC)
        manager.connection._disconnect("killed by the test")
        with pytest.raises(NoAnswer):
            await releasing


async def test_client_that_is_not_entered_names_the_fix(bus: PrivateBus) -> None:
    client = Client(bus.address)
    with pytest.raises(RuntimeError, match="async with"):
        await client.status()
    await client.close()
