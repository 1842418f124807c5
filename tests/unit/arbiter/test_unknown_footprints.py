"""A consumer with neither a declared nor a measured footprint is refused, and all others are granted."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gpumand.domain.consumer import UNKNOWN_MIB, SchedulerSettings
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.domain.residency_states import Residency
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed

LOST = by_unit("image", UNKNOWN_MIB, vram_auto=True)
VOICE = routed("voice", 2867)


@pytest.fixture
async def world() -> FakeWorld:
    made = FakeWorld([LOST, VOICE])
    await made.start()
    return made


async def run_rounds(world: FakeWorld, count: int = 5) -> None:
    """Take readings and learn from them, as housekeeping does in each round."""
    for _ in range(count):
        await world.clock.sleep(2)
        await world.arbiter.state.sample()
        world.arbiter.reconciler.reconcile_all()
        world.arbiter.learning.observe_reading()
        world.arbiter.learning.save()


async def start_externally(world: FakeWorld, mib: int) -> None:
    """Start its unit externally; its process then holds ``mib``."""
    await world.units.start("image.service", 60)
    world.vram.hold(4711, mib, unit="image.service", consumer="image")
    world.arbiter.record_unit(await world.units.state("image.service"))


async def test_consumer_with_unknown_footprint_is_refused_and_others_are_granted(world: FakeWorld) -> None:
    for refused in (
        world.arbiter.acquire(client(), "image", AcquireOptions()),
        world.arbiter.load("image", "", 60),
    ):
        with pytest.raises(ConfigInvalid, match=r"^cannot grant image: .*vram_resident_mib.*vram_guess_mib"):
            await refused
    plan = await world.arbiter.plan(client(), "image", AcquireOptions())
    assert (plan.verdict, plan.error) == (Verdict.REFUSE, ConfigInvalid.dbus_name)
    assert (await world.arbiter.acquire(client(), "voice", AcquireOptions())).loaded


async def test_status_and_log_report_the_unknown_footprint(caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld([LOST, VOICE])
    with caplog.at_level(logging.WARNING):
        await world.start()
    shown = world.arbiter.consumer_status("image")
    assert shown.vram_resident_mib is None
    assert shown.error.startswith("VRAM requirement unknown")
    assert [record.message.startswith("consumer image cannot be leased") for record in caplog.records] == [True]


async def test_consumer_is_granted_once_it_was_measured(world: FakeWorld) -> None:
    await start_externally(world, 9000)
    await run_rounds(world)
    shown = world.arbiter.consumer_status("image")
    assert (shown.residency, shown.vram_resident_mib, shown.error) == (Residency.RESIDENT, 9000, "")
    assert not (await world.arbiter.acquire(client(), "image", AcquireOptions())).loaded


async def test_whole_device_is_reserved_while_it_starts(world: FakeWorld) -> None:
    await start_externally(world, 1000)
    with pytest.raises(Exception, match=r"an unknown part of .* on device 0 is reserved for image"):
        await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=1))
    await run_rounds(world)
    assert (await world.arbiter.acquire(client(), "voice", AcquireOptions())).loaded


async def test_lease_survives_the_loss_and_its_consumer_is_measured_again(world: FakeWorld) -> None:
    before = FakeWorld([replace(LOST, vram_resident_mib=9000), VOICE])
    await before.start()
    await start_externally(before, 9000)
    held = await before.arbiter.acquire(client(), "image", AcquireOptions())
    strict = SchedulerSettings(concurrent_leases=1)
    after = FakeWorld([LOST, VOICE], store=before.store, clock=before.clock, scheduler=strict)
    after.owners = before.owners
    await after.units.start("image.service", 60)
    after.vram.hold(4711, 9000, unit="image.service", consumer="image")
    await after.start()
    assert after.arbiter.lease(held.lease.id).consumer == "image"
    await run_rounds(after)
    assert after.arbiter.consumer_status("image").vram_resident_mib == 9000
    assert (await after.arbiter.plan(client(), "voice", AcquireOptions())).verdict is Verdict.WAIT
    await after.arbiter.release(held.lease.id)
    assert (await after.arbiter.acquire(client(), "voice", AcquireOptions())).loaded


async def test_archive_that_failed_at_start_is_read_again_on_request(world: FakeWorld) -> None:
    known = FakeWorld([LOST])
    await known.start()
    await start_externally(known, 9000)
    await run_rounds(known)
    world.archive.learned |= known.archive.learned
    assert (await world.arbiter.acquire(client(), "image", AcquireOptions())).loaded
    assert world.arbiter.consumer_status("image").vram_resident_mib == 9000
