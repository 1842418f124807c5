from __future__ import annotations

import pytest

from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import UnitFailed, UnitManager
from gpumand.testing.clock import FakeClock
from gpumand.testing.units import FakeUnit, FakeUnits


async def test_units_start_and_stop_on_the_virtual_clock() -> None:
    clock = FakeClock(autojump=True)
    fakes = FakeUnits(clock, [FakeUnit("a.service", start_delay_sec=3, stop_delay_sec=2)])
    units: UnitManager = fakes
    notified: list[UnitActivity] = []
    await units.watch(["a.service"], lambda state: notified.append(state.activity))
    began = clock.monotonic()
    await units.start("a.service", 10)
    first = await units.state("a.service")
    await units.stop("a.service", 10)
    await units.start("a.service", 10)
    assert clock.monotonic() - began == 8
    assert (await units.state("a.service")).invocation_id != first.invocation_id
    assert [activity.value for activity in notified] == [
        "inactive",
        "activating",
        "active",
        "deactivating",
        "inactive",
        "activating",
        "active",
    ]
    assert fakes.calls == [("start", "a.service"), ("stop", "a.service"), ("start", "a.service")]


async def test_configured_failures_are_raised() -> None:
    clock = FakeClock(autojump=True)
    units = FakeUnits(
        clock,
        [
            FakeUnit("fails.service", start_failure=UnitFailed("no", "failed"), lines=("boom",)),
            FakeUnit("masked.service", load_state="masked"),
            FakeUnit("slow.service", start_delay_sec=60),
            FakeUnit("stays.service", UnitActivity.ACTIVE, stop_failure=UnitFailed("came back", "reactivated")),
        ],
    )
    for unit, reason in (("fails", "failed"), ("masked", "masked"), ("slow", "timeout"), ("absent", "not-found")):
        with pytest.raises(UnitFailed) as failed:
            await units.start(f"{unit}.service", 10)
        assert failed.value.reason == reason
    with pytest.raises(UnitFailed, match="came back"):
        await units.stop("stays.service", 10)
    assert (await units.state("stays.service")).activity is UnitActivity.ACTIVE
    assert (await units.state("fails.service")).activity is UnitActivity.FAILED
    assert (await units.state("absent.service")).load_state == "not-found"
    assert await units.failure_lines("fails.service") == ("boom",)
    units.unavailable = True
    with pytest.raises(UnitFailed) as failed:
        await units.state("fails.service")
    assert failed.value.reason == "unavailable"


async def test_external_changes_are_reported_to_the_watcher() -> None:
    units = FakeUnits(FakeClock(), ["a.service", "b.service"])
    notified: list[UnitState] = []
    await units.watch(["a.service"], notified.append)
    units.units["b.service"].pids.add(7)
    units.become("a.service", UnitActivity.ACTIVE)
    units.become("a.service", UnitActivity.ACTIVE)
    units.become("b.service", UnitActivity.ACTIVE)
    assert [state.unit for state in notified] == ["a.service", "a.service"]
    assert await units.unit_of_pid(7) == "b.service"
    assert await units.unit_of_pid(8) == ""
