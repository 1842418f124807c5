"""Memory that others take between the check and the end of a load."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.errors import LoadFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed


async def test_service_that_its_clients_load_again_during_the_load_is_named() -> None:
    world = FakeWorld([routed("old", 9000), routed("llm", 20000)])
    old = world.routes.place("old", 9000)
    world.routes.consumer("llm").load_sec = 6.0
    await world.start()

    async def come_back() -> None:
        while old.held_mib:
            await world.clock.sleep(0.2)
        await world.clock.sleep(1.0)
        old.loaded = True
        world.routes._hold(old, 9000)

    coming = asyncio.create_task(come_back())
    with pytest.raises(LoadFailed, match=r"CUDA out of memory\. Meanwhile old took 8\.8 GiB on device 0"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))
    await coming

    assert "Meanwhile old took 8.8 GiB" in world.arbiter.consumer_status("llm").error


async def test_load_that_fails_by_itself_blames_no_other() -> None:
    world = FakeWorld([routed("llm", 9000)])
    world.routes.consumer("llm").load_error = "no such file"
    world.vram.hold(77, 5000, name="game")
    await world.start()

    with pytest.raises(LoadFailed) as failed:
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert "Meanwhile" not in failed.value.message
