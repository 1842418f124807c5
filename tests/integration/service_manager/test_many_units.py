"""More units than a system bus allows unanswered calls (128) and match rules (512), on a bus with these limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus.connection import BusConnection, BusError, Subscription
from gpumand.bus.names import PEER, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH
from gpumand.domain.consumer import UnitState
from gpumand.service_manager.manager import Systemd1
from gpumand.service_manager.units import SystemdUnits
from gpumand.testing.bus import PrivateBus
from tests.integration.service_manager.host import FakeHost, until

COUNT = 600
NAMES = [f"u{number}.service" for number in range(COUNT)]
OTHERS = {
    "alias.service": {"alias_of": "real.service"},
    "real.service": {},
    "masked.service": {"load_state": "masked"},
    "inst@a-b.service": {},
    "stranger.service": {},
}
MANY = [*NAMES, "alias.service", "real.service", "masked.service", "inst@a-b.service", "missing.service"]


class Reported:
    """The latest reported state of each unit, and how many reports there were."""

    def __init__(self) -> None:
        self.states: dict[str, UnitState] = {}
        self.count = 0

    def __call__(self, state: UnitState) -> None:
        self.states[state.unit] = state
        self.count += 1

    def activities(self, *units: str) -> set[str]:
        return {self.states[unit].activity.value if unit in self.states else "" for unit in units}


@pytest.fixture
async def empty_host(tmp_path: Path) -> AsyncIterator[FakeHost]:
    async with PrivateBus(has_system_limits=True) as bus:
        control = await BusConnection.connect(bus.address)
        host = FakeHost(bus, control, tmp_path)
        yield host
        await host.halt()
        await control.close()


@pytest.fixture
async def host(empty_host: FakeHost) -> FakeHost:
    await empty_host.boot({name: {} for name in NAMES} | OTHERS)
    return empty_host


async def test_more_questions_at_once_than_the_bus_allows_are_all_answered(host: FakeHost, units: SystemdUnits) -> None:
    async with asyncio.timeout(60):
        states = await asyncio.gather(*(units.state(name) for name in NAMES))
    assert {state.activity for state in states} == {"inactive"}


async def test_systemd_that_hangs_does_not_use_up_the_calls_to_others(
    host: FakeHost, connection: BusConnection
) -> None:
    host.pause()
    where = (SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", "s")
    calls = [asyncio.ensure_future(connection.call(*where, (name,))) for name in NAMES]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()  # the bus still expects their answers
    await asyncio.gather(*calls, return_exceptions=True)

    await connection.call(host.control.unique_name, "/", PEER, "Ping")

    host.resume()
    assert await connection.call(*where, (NAMES[0],))


async def test_states_of_many_units_need_few_calls(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("u1.service", 30)
    await units.start("alias.service", 30)
    reported = Reported()
    before = await host.counts()

    failures = await units.report_states([*MANY, "template@.service", "no unit"], reported)

    assert {unit: failed.reason for unit, failed in failures.items()} == {
        "template@.service": "bad-name",
        "no unit": "bad-name",
    }
    assert reported.states.keys() == set(MANY)
    assert reported.activities("u1.service", "alias.service", "real.service") == {"active"}
    assert reported.states["u1.service"].invocation_id == (await units.state("u1.service")).invocation_id != ""
    assert reported.activities(*NAMES[2:], "inst@a-b.service") == {"inactive"}
    assert reported.states["masked.service"].load_state == "masked"
    assert reported.states["missing.service"].load_state == "not-found"
    after = await host.counts()
    assert after["ListUnitsByNames"] - before.get("ListUnitsByNames", 0) == 3
    assert after["GetAll"] - before["GetAll"] < 10


async def test_states_are_read_one_by_one_where_systemd_refuses_the_list(
    host: FakeHost, connection: BusConnection
) -> None:
    listed = await Systemd1(connection).list_units(["u1.service", "template@.service"])
    assert listed == {}


async def test_every_one_of_many_units_is_watched_within_the_limits_of_the_bus(
    host: FakeHost, units: SystemdUnits
) -> None:
    reported = Reported()
    await units.watch(MANY, reported)
    await until(lambda: reported.states.keys() == set(MANY))
    await until(lambda: not units._watcher._units["alias.service"].is_reading)
    counts = await host.counts()
    assert counts["LoadUnit"] < 10

    for unit in ("u0.service", "u300.service", "u599.service", "alias.service", "inst@a-b.service"):
        await host.call_manager("StartUnit", "ss", unit, "replace")

    await until(
        lambda: (
            reported.activities("u0.service", "u300.service", "u599.service", "alias.service", "real.service")
            == {"active"}
        )
    )


async def test_change_during_the_list_is_not_missed(host: FakeHost, units: SystemdUnits) -> None:
    reported = Reported()
    host.pause()
    await units.watch(MANY, reported)
    starts = [asyncio.ensure_future(host.call_manager("StartUnit", "ss", name, "replace")) for name in NAMES[:100]]
    await asyncio.sleep(0)
    host.resume()
    await asyncio.gather(*starts)
    await until(lambda: reported.activities(*NAMES[:100]) == {"active"})


async def test_changes_of_other_units_are_dropped_unread(
    host: FakeHost, units: SystemdUnits, connection: BusConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = Reported()
    await units.watch(NAMES, reported)
    await until(lambda: reported.states.keys() == set(NAMES))
    paths: list[str] = []
    dispatch = connection._signals.dispatch

    def record(sender: str, path: str, interface: str, member: str, body: list[Any]) -> None:
        paths.append(path)
        dispatch(sender, path, interface, member, body)

    monkeypatch.setattr(connection._signals, "dispatch", record)

    await host.call_manager("StartUnit", "ss", "stranger.service", "replace")
    await host.call_manager("StartUnit", "ss", "u7.service", "replace")

    await until(lambda: reported.activities("u7.service") == {"active"})
    assert set(paths) == {"/org/freedesktop/systemd1/unit/u7_2eservice"}


async def test_many_units_stay_watched_over_a_restart_and_a_reload_of_systemd(
    host: FakeHost, units: SystemdUnits
) -> None:
    reported = Reported()
    await units.watch(NAMES, reported)
    await until(lambda: reported.states.keys() == set(NAMES))
    await host.reexec()
    await until(host.subscribed)
    await host.call_manager("StartUnit", "ss", "u5.service", "replace")
    await until(lambda: reported.activities("u5.service") == {"active"})
    await host.configure("u6.service", load_state="masked")
    await host.reload()
    await until(lambda: reported.states["u6.service"].load_state == "masked")


async def test_few_of_many_units_that_are_left_get_rules_of_their_own(
    host: FakeHost, units: SystemdUnits, connection: BusConnection
) -> None:
    reported = Reported()
    await units.watch(NAMES, reported)
    await until(lambda: reported.states.keys() == set(NAMES))

    await units.watch(["u8.service", "alias.service"], reported)

    await until(
        lambda: (
            rules(connection, "path_namespace") == 0 and rules(connection, "path='/org/freedesktop/systemd1/unit/") == 2
        )
    )
    await host.call_manager("StartUnit", "ss", "u8.service", "replace")
    await host.call_manager("StartUnit", "ss", "alias.service", "replace")
    await until(lambda: reported.activities("u8.service", "alias.service") == {"active"})

    await units.watch(NAMES, reported)
    assert reported.activities("u8.service") == {"active"}
    await host.call_manager("StopUnit", "ss", "u8.service", "replace")
    await host.call_manager("StartUnit", "ss", "u9.service", "replace")
    await until(
        lambda: (reported.activities("u8.service"), reported.activities("u9.service")) == ({"inactive"}, {"active"})
    )


async def test_bus_without_a_match_rule_for_each_unit_gives_one_for_all(
    host: FakeHost, units: SystemdUnits, connection: BusConnection, caplog: pytest.LogCaptureFixture
) -> None:
    await use_up_rules(connection, left=5)
    reported = Reported()
    await units.watch(NAMES[:20], reported)

    await until(lambda: reported.states.keys() == set(NAMES[:20]))
    for unit in NAMES[:20]:
        await host.call_manager("StartUnit", "ss", unit, "replace")
    await until(lambda: reported.activities(*NAMES[:20]) == {"active"})
    assert caplog.text.count("the bus refuses a match rule for one unit") == 1


@pytest.mark.parametrize("count", [20, COUNT])
async def test_bus_without_any_match_rule_is_named_and_tried_again(
    host: FakeHost,
    units: SystemdUnits,
    connection: BusConnection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    monkeypatch.setattr("gpumand.service_manager.watcher.RETRY_SEC", 0.1)
    used = await use_up_rules(connection, left=0)
    reported = Reported()
    await units.watch(NAMES[:count], reported)
    await until(lambda: "only once a minute" in caplog.text)
    for subscription in used:
        await subscription.cancel()

    await until(lambda: reported.states.keys() == set(NAMES[:count]))
    await host.call_manager("StartUnit", "ss", "u3.service", "replace")
    await until(lambda: reported.activities("u3.service") == {"active"})
    assert caplog.text.count("only once a minute") == 1


async def use_up_rules(connection: BusConnection, left: int) -> list[Subscription]:
    """Add match rules until the bus has this number left for the connection."""
    used: list[Subscription] = []
    with contextlib.suppress(BusError):
        while True:
            used.append(await connection.subscribe(path=f"/{len(used)}", callback=lambda _: None))
    for _ in range(left):
        await used.pop().cancel()
    return used


def rules(connection: BusConnection, text: str) -> int:
    """How many of the match rules of a connection contain a text."""
    return sum(text in rule.text() for rule in connection._signals._installed)
