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


class RecordedStates:
    """The reported states of units, in order."""

    def __init__(self) -> None:
        self.states: list[UnitState] = []

    def __call__(self, state: UnitState) -> None:
        self.states.append(state)

    def last(self, unit: str) -> str:
        states = [state.activity.value for state in self.states if state.unit == unit]
        return states[-1] if states else ""


async def test_changes_by_other_programs_are_reported(host: FakeHost, units: SystemdUnits) -> None:
    recorded = RecordedStates()
    await units.watch(["a.service", "b.service"], recorded)
    await until(lambda: recorded.last("a.service") == recorded.last("b.service") == "inactive")
    await host.call_manager("StartUnit", "ss", "a.service", "replace")
    await until(lambda: recorded.last("a.service") == "active")
    os.kill(await host.main_pid("a.service"), signal.SIGKILL)
    await until(lambda: recorded.last("a.service") == "failed")
    assert recorded.states[-1].result == "signal"
    assert recorded.last("b.service") == "inactive"


async def test_unchanged_state_is_not_reported_twice(host: FakeHost, units: SystemdUnits) -> None:
    recorded = RecordedStates()
    await units.watch(["a.service"], recorded)
    for _ in range(5):
        await units.start("a.service", 10)
        await units.stop("a.service", 10)
    await until(lambda: recorded.last("a.service") == "inactive")
    assert all(one != next_one for one, next_one in zip(recorded.states, recorded.states[1:], strict=False))


async def test_restart_of_an_active_unit_is_reported(host: FakeHost, units: SystemdUnits) -> None:
    recorded = RecordedStates()
    await units.watch(["a.service"], recorded)
    await units.start("a.service", 10)
    await until(lambda: recorded.last("a.service") == "active")
    first = recorded.states[-1].invocation_id
    await host.call_manager("RestartUnit", "ss", "a.service", "replace")
    await until(lambda: recorded.last("a.service") == "active" and recorded.states[-1].invocation_id != first)


async def test_new_unit_list_keeps_common_units_watched(host: FakeHost, units: SystemdUnits) -> None:
    first, second = RecordedStates(), RecordedStates()
    await units.watch(["a.service", "b.service"], first)
    await until(lambda: all_recorded(first, "a.service", "b.service"))
    before = len(first.states)
    await units.watch(["b.service", "tree.service"], second)
    for unit in ("a.service", "b.service", "tree.service"):
        await units.start(unit, 10)
    await until(lambda: second.last("b.service") == second.last("tree.service") == "active")
    assert second.last("a.service") == ""
    assert len(first.states) == before


async def test_failing_callback_is_called_again(
    host: FakeHost, units: SystemdUnits, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = RecordedStates()

    def fails(state: UnitState) -> None:
        recorded(state)
        raise ZeroDivisionError

    await units.watch(["a.service"], fails)
    await units.start("a.service", 10)
    await until(lambda: recorded.last("a.service") == "active")
    assert "handling a state change of a.service failed" in caplog.text


async def test_watch_survives_a_systemd_restart(host: FakeHost, units: SystemdUnits) -> None:
    recorded = RecordedStates()
    await units.watch(["a.service"], recorded)
    await until(lambda: recorded.last("a.service") == "inactive")
    await host.reexec()
    await until(host.subscribed)
    await host.call_manager("StartUnit", "ss", "a.service", "replace")
    await until(lambda: recorded.last("a.service") == "active")


async def test_changes_during_a_reload_are_reported_afterwards(host: FakeHost, units: SystemdUnits) -> None:
    recorded = RecordedStates()
    await units.watch(["a.service"], recorded)
    await until(lambda: recorded.last("a.service") == "inactive")
    await host.configure("a.service", load_state="masked")
    await host.reload()
    await until(lambda: bool(recorded.states) and recorded.states[-1].load_state == "masked")


async def test_watch_set_up_before_systemd_starts_later(empty_host: FakeHost, connection: BusConnection) -> None:
    units = await SystemdUnits.attach(connection)
    recorded = RecordedStates()
    await units.watch(["a.service"], recorded)
    await empty_host.boot(UNITS)
    await until(lambda: recorded.last("a.service") == "inactive")
    await empty_host.call_manager("StartUnit", "ss", "a.service", "replace")
    await until(lambda: recorded.last("a.service") == "active")
    await units.close()


async def test_burst_of_signals_leads_to_few_reads(host: FakeHost, units: SystemdUnits) -> None:
    recorded = RecordedStates()
    await units.watch(["a.service"], recorded)
    await until(lambda: recorded.last("a.service") == "inactive")
    watched = units._watcher._units["a.service"]
    before = (await host.counts()).get("GetAll", 0)
    for _ in range(1000):
        watched.refresh()
    await host.call_manager("StartUnit", "ss", "a.service", "replace")
    await until(lambda: recorded.last("a.service") == "active")
    await asyncio.sleep(0)
    assert (await host.counts())["GetAll"] - before < 20


def all_recorded(recorded: RecordedStates, *names: str) -> bool:
    return all(recorded.last(name) for name in names)
