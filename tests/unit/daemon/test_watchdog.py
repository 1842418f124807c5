"""When the daemon counts as alive, and when it says so."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.arbiter.loop_deadlines import LoopDeadlines
from gpumand.daemon.watchdog import STALL_SEC, ThreadedSource, Vitals, Watchdog, why_sick
from gpumand.testing.clock import FakeClock


@pytest.mark.parametrize(
    ("vitals", "why"),
    [
        (Vitals(bus_lost="closed"), "the bus is lost: closed"),
        (Vitals(arbiter_error="KeyError('x')"), "queue"),
        (Vitals(sampler_alive=False), "thread that reads VRAM has died"),
        (Vitals(sampler_alive=False, degraded="nvml-hangs"), "thread that reads VRAM has died"),
        (Vitals(sampler_busy_sec=STALL_SEC + 1), "hung for 121 s and nobody has noticed"),
        (Vitals(upkeep_ended=True), "loops that keep the books have ended"),
        (Vitals(overdue_sec={"sampling": STALL_SEC + 1, "probing": 5.0}), "sampling is 121 s late"),
    ],
)
def test_whatever_must_be_alive_is_asked_for(vitals: Vitals, why: str) -> None:
    assert why in why_sick(vitals)


@pytest.mark.parametrize(
    "vitals",
    [
        Vitals(),
        Vitals(sampler_busy_sec=3600.0, degraded="nvml-hangs: a driver call has not returned for 3600 s"),
        Vitals(sampler_busy_sec=STALL_SEC - 1),
        Vitals(overdue_sec={"sampling": STALL_SEC - 1}),
        Vitals(degraded="nvml-error: the driver lists no GPU"),
    ],
)
def test_what_is_degraded_or_slow_is_alive(vitals: Vitals) -> None:
    assert why_sick(vitals) == ""


class Patient:
    """Its vitals are what a test says; None = they cannot be taken."""

    def __init__(self) -> None:
        self.vitals: Vitals | None = Vitals()
        self.looks = 0
        self.pings = 0

    def look(self) -> Vitals:
        self.looks += 1
        if self.vitals is None:
            raise RuntimeError("injected")
        return self.vitals

    def ping(self) -> None:
        self.pings += 1


async def watched(clock: FakeClock, patient: Patient, seconds: float) -> None:
    running = asyncio.create_task(Watchdog(clock, 30.0, patient.look, patient.ping).run())
    await clock.advance(seconds)
    running.cancel()


async def test_pings_come_at_once_and_then_twice_a_period() -> None:
    clock, patient = FakeClock(), Patient()
    await watched(clock, patient, 60.0)
    assert patient.pings == patient.looks == 5


@pytest.mark.parametrize("vitals", [None, Vitals(sampler_alive=False)])
async def test_the_sick_do_not_ping_and_are_looked_at_more_often(vitals: Vitals | None) -> None:
    clock, patient = FakeClock(), Patient()
    patient.vitals = vitals
    await watched(clock, patient, 30.0)
    assert patient.pings == 0
    assert patient.looks == 9


async def test_who_recovers_within_the_period_is_not_killed(caplog: pytest.LogCaptureFixture) -> None:
    clock, patient = FakeClock(), Patient()
    watchdog = Watchdog(clock, 30.0, patient.look, patient.ping)
    assert watchdog.beat()
    patient.vitals = Vitals(upkeep_ended=True)
    assert not watchdog.beat()
    assert not watchdog.beat()
    patient.vitals = Vitals()
    assert watchdog.beat()
    assert patient.pings == 2
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"], "once each, not at every look"


def test_a_loop_that_breaks_off_again_and_again_gets_no_more_time_by_it() -> None:
    turns = LoopDeadlines()
    turns.expect("sampling", 10.0)
    assert turns.overdue_sec(9.0) == {}
    turns.expect("sampling", 100.0)
    assert turns.overdue_sec(15.0) == {"sampling": 5.0}
    turns.finished("sampling", 20.0)
    assert turns.overdue_sec(20.0) == {}


def test_sources_with_a_thread_are_known_as_such() -> None:
    from gpumand.vram.no_source import NoSource
    from gpumand.vram.nvml import NvmlSource

    clock = FakeClock()
    assert isinstance(NvmlSource(clock), ThreadedSource)
    assert not isinstance(NoSource(None, clock), ThreadedSource)
