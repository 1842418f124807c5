from __future__ import annotations

import asyncio
import os
import signal

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.domain.consumer import UnitState
from gpumand.service_manager.units import SystemdUnits
from tests.integration.service_manager.conftest import UNITS
from tests.integration.service_manager.host import FakeHost, until


class Heard:
    """What was told of the units, in order."""

    def __init__(self) -> None:
        self.states: list[UnitState] = []

    def __call__(self, state: UnitState) -> None:
        self.states.append(state)

    def last(self, unit: str) -> str:
        told = [state.activity.value for state in self.states if state.unit == unit]
        return told[-1] if told else ""


async def test_what_happens_behind_our_back_is_told(host: FakeHost, units: SystemdUnits) -> None:
    heard = Heard()
    await units.watch(["a.service", "b.service"], heard)
    await until(lambda: heard.last("a.service") == heard.last("b.service") == "inactive")
    await host.ask("StartUnit", "ss", "a.service", "replace")
    await until(lambda: heard.last("a.service") == "active")
    os.kill(await host.main_pid("a.service"), signal.SIGKILL)
    await until(lambda: heard.last("a.service") == "failed")
    assert heard.states[-1].result == "signal"
    assert heard.last("b.service") == "inactive"


async def test_the_same_state_is_not_told_twice(host: FakeHost, units: SystemdUnits) -> None:
    heard = Heard()
    await units.watch(["a.service"], heard)
    for _ in range(5):
        await units.start("a.service", 10)
        await units.stop("a.service", 10)
    await until(lambda: heard.last("a.service") == "inactive")
    assert all(one != next_one for one, next_one in zip(heard.states, heard.states[1:], strict=False))


async def test_a_new_run_of_an_active_unit_is_told(host: FakeHost, units: SystemdUnits) -> None:
    heard = Heard()
    await units.watch(["a.service"], heard)
    await units.start("a.service", 10)
    await until(lambda: heard.last("a.service") == "active")
    first = heard.states[-1].invocation_id
    await host.ask("RestartUnit", "ss", "a.service", "replace")
    await until(lambda: heard.last("a.service") == "active" and heard.states[-1].invocation_id != first)


async def test_watching_others_leaves_the_common_ones_watched(host: FakeHost, units: SystemdUnits) -> None:
    first, second = Heard(), Heard()
    await units.watch(["a.service", "b.service"], first)
    await until(lambda: heard_all(first, "a.service", "b.service"))
    before = len(first.states)
    await units.watch(["b.service", "tree.service"], second)
    for unit in ("a.service", "b.service", "tree.service"):
        await units.start(unit, 10)
    await until(lambda: second.last("b.service") == second.last("tree.service") == "active")
    assert second.last("a.service") == ""
    assert len(first.states) == before


async def test_a_listener_that_fails_goes_on_hearing(
    host: FakeHost, units: SystemdUnits, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def fails(state: UnitState) -> None:
        heard(state)
        raise ZeroDivisionError

    await units.watch(["a.service"], fails)
    await units.start("a.service", 10)
    await until(lambda: heard.last("a.service") == "active")
    assert "could not be dealt with" in caplog.text


async def test_the_watch_goes_on_over_a_restart_of_systemd(host: FakeHost, units: SystemdUnits) -> None:
    heard = Heard()
    await units.watch(["a.service"], heard)
    await until(lambda: heard.last("a.service") == "inactive")
    await host.reexec()
    await until(host.subscribed)
    await host.ask("StartUnit", "ss", "a.service", "replace")
    await until(lambda: heard.last("a.service") == "active")


async def test_what_changed_while_systemd_could_not_tell_is_told_after_a_reload(
    host: FakeHost, units: SystemdUnits
) -> None:
    heard = Heard()
    await units.watch(["a.service"], heard)
    await until(lambda: heard.last("a.service") == "inactive")
    await host.configure("a.service", load_state="masked")
    await host.reload()
    await until(lambda: heard.states[-1].load_state == "masked")


async def test_a_watch_set_up_before_systemd_is_there_begins_when_it_appears(
    empty_host: FakeHost, connection: BusConnection
) -> None:
    units = await SystemdUnits.attach(connection)
    heard = Heard()
    await units.watch(["a.service"], heard)
    await empty_host.boot(UNITS)
    await until(lambda: heard.last("a.service") == "inactive")
    await empty_host.ask("StartUnit", "ss", "a.service", "replace")
    await until(lambda: heard.last("a.service") == "active")
    await units.close()


async def test_a_burst_of_signals_leads_to_few_readings(host: FakeHost, units: SystemdUnits) -> None:
    heard = Heard()
    await units.watch(["a.service"], heard)
    await until(lambda: heard.last("a.service") == "inactive")
    watched = units._watcher._units["a.service"]
    before = (await host.counts()).get("GetAll", 0)
    for _ in range(1000):
        watched.refresh()
    await host.ask("StartUnit", "ss", "a.service", "replace")
    await until(lambda: heard.last("a.service") == "active")
    await asyncio.sleep(0)
    assert (await host.counts())["GetAll"] - before < 20


def heard_all(heard: Heard, *names: str) -> bool:
    return all(heard.last(name) for name in names)
