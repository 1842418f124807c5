"""Blocks of leases inside each other, in tasks and in threads, against the real daemon."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from gpumand.client import Client, SyncClient, TimedOut, WouldDeadlock, lease, lease_sync
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.client.waiting import status_where


async def test_a_block_inside_a_block_that_waits_for_it_is_refused_at_once(gpumand: PrivateGpumand) -> None:
    async with lease("comfyui", bus=gpumand.address) as outer:
        began = time.monotonic()
        with pytest.raises(WouldDeadlock, match=outer.id):
            async with lease("ollama", bus=gpumand.address):
                pass
        assert time.monotonic() - began < 19, "the default timeout is 20 s"
    async with lease("ollama", bus=gpumand.address):
        pass


def test_blocks_of_one_thread_are_nested_too(gpumand: PrivateGpumand) -> None:
    outer, inner = (lease_sync(name, bus=gpumand.address) for name in ("comfyui", "ollama"))
    with outer, pytest.raises(WouldDeadlock), inner:
        pass
    with SyncClient(gpumand.address) as client, client.lease("comfyui"), pytest.raises(WouldDeadlock):
        client.acquire("ollama")


async def test_another_task_waits_for_the_end_of_the_block(gpumand: PrivateGpumand) -> None:
    async def other() -> str:
        async with lease("ollama", bus=gpumand.address) as held:
            return held.consumer

    async with Client(gpumand.address) as client:
        async with lease("comfyui", bus=gpumand.address):
            task = asyncio.create_task(other())
            await status_where(client, "the other task waits", queue=1)
        assert await task == "ollama"


def test_another_thread_waits_for_the_end_of_the_block(gpumand: PrivateGpumand) -> None:
    outcome: list[str] = []

    def other() -> None:
        try:
            with lease_sync("ollama", bus=gpumand.address, timeout_sec=0.3):
                outcome.append("granted")
        except TimedOut:
            outcome.append("timed out")

    with lease_sync("comfyui", bus=gpumand.address):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert outcome == ["timed out"]


async def test_the_outer_consumer_is_resident_again_when_the_inner_block_ends(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client, lease("comfyui", bus=gpumand.address) as outer:
        async with lease("ollama", yield_lease=outer.id, bus=gpumand.address) as inner:
            assert inner.evicted == ("comfyui",)
            shown = {one.id: one for one in (await client.status()).leases}
            assert (shown[outer.id].yielded, shown[inner.id].yields) == (True, outer.id)
        status = await client.status()
        assert {one.name: one.residency for one in status.consumers}["comfyui"] == "resident"
        assert [(one.id, one.yielded) for one in status.leases] == [(outer.id, False)]
        assert not outer.ended.is_set()


async def test_an_exclusive_lease_is_shown_as_such(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        grant = await client.acquire("comfyui", exclusive=True)
        (active,) = (await client.status()).leases
        assert active.exclusive
        with pytest.raises(TimedOut, match="leased exclusively to comfyui"):
            await client.acquire("comfyui", timeout_sec=0.3)
        await client.release(grant.id)


async def test_the_caller_may_name_leases_that_it_keeps(gpumand: PrivateGpumand) -> None:
    async with Client(gpumand.address) as client:
        grant = await client.acquire("comfyui")
        with pytest.raises(WouldDeadlock):
            await client.acquire("ollama", within=[grant.id])
        await client.release(grant.id)
