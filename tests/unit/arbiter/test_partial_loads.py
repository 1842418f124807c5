"""A model of which only a part is in VRAM is granted with a warning that says what helps."""

from __future__ import annotations

import logging

import pytest

from gpumand.domain.partial_load import PartialLoad
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed
from tests.unit.arbiter.test_busy import housekeeping

HALF = PartialLoad(size_mib=14000, vram_mib=7000)
PART = "only 50 % of its model is in VRAM (6.8 GiB of 13.7 GiB); the rest is computed on the CPU, which is much slower."


async def loaded(mib: int = 8000, partial: PartialLoad | None = HALF, **more: object) -> FakeWorld:
    world = FakeWorld([routed("llm", mib, **more)])
    world.routes.consumer("llm").partial = partial
    await world.start()
    return world


def problem(world: FakeWorld) -> str:
    return world.arbiter.consumer_status("llm").error


async def test_grant_of_a_model_that_is_half_on_the_cpu_warns_at_once(caplog: pytest.LogCaptureFixture) -> None:
    world = await loaded()

    with caplog.at_level(logging.WARNING):
        grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert grant.loaded
    advice = "Set vram_resident_mib to at least 14000 and unload it, so that the next load has room for all of it"
    assert problem(world) == f"{PART} {advice}: gpumanctl evict llm."
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING] == [
        f"consumer llm: {problem(world)}"
    ]


async def test_warning_is_logged_once_and_ends_with_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    world = await loaded()
    async with housekeeping(world):
        with caplog.at_level(logging.WARNING):
            await world.arbiter.acquire(client(), "llm", AcquireOptions())
            await world.clock.sleep(60.0)
        assert caplog.text.count("computed on the CPU") == 1

        world.routes.consumer("llm").partial = None
        await world.clock.sleep(10.0)

    assert problem(world) == ""


async def test_model_that_another_client_has_loaded_in_part_is_found_by_the_health_check() -> None:
    world = await loaded()
    world.routes.place("llm", 7000)
    async with housekeeping(world):
        await world.clock.sleep(10.0)
        assert problem(world).startswith(PART)

        world.routes.consumer("llm").health_status = 500
        await world.clock.sleep(10.0)
        assert problem(world).startswith(PART), "no answer is no evidence of a whole model"


async def test_advice_fits_the_footprint_and_the_device() -> None:
    reserved, large = await loaded(14000), await loaded(8000, PartialLoad(40000, 20000))
    for world in (reserved, large):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert "Unload it, so that the next load has room for all of it: gpumanctl evict llm." in problem(reserved)
    assert "vram_resident_mib" not in problem(reserved)
    assert problem(large).endswith("All of it does not fit device 0; a smaller quantization or context does.")


async def test_model_without_any_part_in_vram_is_named_so() -> None:
    world = await loaded(partial=PartialLoad(14000, 0))
    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert problem(world).startswith("nothing of its model is in VRAM (0 MiB of 13.7 GiB)")


async def test_unloaded_model_has_no_warning() -> None:
    world = await loaded()
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(grant.lease.id)

    await world.arbiter.evict("llm", False, 20.0)

    assert problem(world) == ""


async def test_part_of_a_model_does_not_lower_an_automatic_footprint() -> None:
    world = await loaded(14000, None, vram_auto=True)
    world.routes.consumer("llm").mib = 14000
    async with housekeeping(world):
        for partial, mib in ((None, 14000), *[(HALF, 7000)] * 9):
            world.routes.consumer("llm").partial, world.routes.consumer("llm").mib = partial, mib
            grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
            await world.clock.sleep(60.0)
            await world.arbiter.release(grant.lease.id)
            await world.arbiter.evict("llm", False, 20.0)

    assert world.arbiter.state.consumer("llm").footprint_mib == 14000
