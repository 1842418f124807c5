"""What was measured is lost, and nobody wrote it down: that consumer is not lent, and all the others are."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gpumand.domain.consumer import UNKNOWN_MIB, Residency
from gpumand.domain.errors import ConfigInvalid
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed

LOST = by_unit("image", UNKNOWN_MIB, vram_auto=True)
VOICE = routed("voice", 2867)


@pytest.fixture
async def world() -> FakeWorld:
    made = FakeWorld([LOST, VOICE])
    await made.start()
    return made


async def turns(world: FakeWorld, count: int = 5) -> None:
    """What upkeep does at each of its turns."""
    for _ in range(count):
        await world.clock.sleep(2)
        await world.arbiter.arbiter_state.sample()
        world.arbiter.facts.conclude_all()
        world.arbiter.measuring.look()
        world.arbiter.measuring.keep()


async def run_unasked(world: FakeWorld, mib: int) -> None:
    """Let somebody else start its unit, which takes so much."""
    await world.units.start("image.service", 60)
    world.vram.hold(4711, mib, unit="image.service", consumer="image")
    world.arbiter.note_unit(await world.units.state("image.service"))


async def test_it_is_refused_by_name_and_others_are_lent(world: FakeWorld) -> None:
    for refused in (
        world.arbiter.acquire(client(), "image", AcquireOptions()),
        world.arbiter.load("image", "", 60),
    ):
        with pytest.raises(ConfigInvalid, match=r"^image cannot be lent: .*vram_resident_mib.*vram_guess_mib"):
            await refused
    plan = await world.arbiter.plan(client(), "image", AcquireOptions())
    assert (plan.verdict, plan.error) == (Verdict.REFUSE, ConfigInvalid.dbus_name)
    assert (await world.arbiter.acquire(client(), "voice", AcquireOptions())).loaded


async def test_status_and_log_say_so(caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld([LOST, VOICE])
    with caplog.at_level(logging.WARNING):
        await world.start()
    shown = world.arbiter.consumer_status("image")
    assert shown.vram_resident_mib is None
    assert shown.error.startswith("how much VRAM it needs is not known")
    assert [record.message.startswith("consumer image is not lent") for record in caplog.records] == [True]


async def test_once_it_was_seen_running_it_is_lent(world: FakeWorld) -> None:
    await run_unasked(world, 9000)
    await turns(world)
    shown = world.arbiter.consumer_status("image")
    assert (shown.residency, shown.vram_resident_mib, shown.error) == (Residency.RESIDENT, 9000, "")
    assert not (await world.arbiter.acquire(client(), "image", AcquireOptions())).loaded


async def test_what_it_may_take_while_it_starts_is_nobody_elses(world: FakeWorld) -> None:
    await run_unasked(world, 1000)
    with pytest.raises(Exception, match="an unknown part of device 0 is promised to image"):
        await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=1))
    await turns(world)
    assert (await world.arbiter.acquire(client(), "voice", AcquireOptions())).loaded


async def test_lease_over_the_loss_stands_and_what_it_is_on_is_measured_again(world: FakeWorld) -> None:
    before = FakeWorld([replace(LOST, vram_resident_mib=9000), VOICE])
    await before.start()
    await run_unasked(before, 9000)
    held = await before.arbiter.acquire(client(), "image", AcquireOptions())
    after = FakeWorld([LOST, VOICE], store=before.store, clock=before.clock)
    after.owners = before.owners
    await after.units.start("image.service", 60)
    after.vram.hold(4711, 9000, unit="image.service", consumer="image")
    await after.start()
    assert after.arbiter.lease(held.lease.id).consumer == "image"
    await turns(after)
    assert after.arbiter.consumer_status("image").vram_resident_mib == 9000
    assert (await after.arbiter.plan(client(), "voice", AcquireOptions())).verdict is Verdict.WAIT
    await after.arbiter.release(held.lease.id)
    assert (await after.arbiter.acquire(client(), "voice", AcquireOptions())).loaded


async def test_disk_that_was_silent_at_the_start_is_asked_again_when_it_matters(world: FakeWorld) -> None:
    known = FakeWorld([LOST])
    await known.start()
    await run_unasked(known, 9000)
    await turns(known)
    world.archive.learned |= known.archive.learned
    assert (await world.arbiter.acquire(client(), "image", AcquireOptions())).loaded
    assert world.arbiter.consumer_status("image").vram_resident_mib == 9000
