"""Watches of units: events that happen while systemd is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, cast

import pytest

from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.names import SYSTEMD_SERVICE
from gpumand.bus.signal_matches import Signal
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.service_manager.manager import NO_JOB, ListedUnit, Systemd1, Unit
from gpumand.service_manager.unit_signals import LIMITS_EXCEEDED, UnitSignals
from gpumand.service_manager.watcher import UnitWatcher, WatchedUnit


class Systemd:
    """The part of Systemd1 that a watch uses; a test can delay its replies."""

    def __init__(self) -> None:
        self.lookups = 0
        self.subscribed = self.unsubscribed = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.faults: list[Exception] = []

    async def unit_path(self, unit: str) -> str:
        self.lookups += 1
        path = f"/{self.lookups}"
        await self.answering.wait()
        return path

    async def listen_to_unit(self, path: str, callback: Callable[[Signal], None]) -> Systemd:
        self.subscribed += 1
        await self.answering.wait()
        return self

    async def cancel(self) -> None:
        self.unsubscribed += 1

    async def read(self, unit: str) -> Unit:
        if self.faults:
            raise self.faults.pop()
        return Unit(UnitState(unit, UnitActivity.ACTIVE), f"/{self.lookups}", NO_JOB, ())


def watched_unit(systemd: Systemd, changed: Callable[[UnitState], None]) -> WatchedUnit:
    of = cast(Systemd1, systemd)
    watched = WatchedUnit(of, UnitSignals(of), "a.service", changed)
    watched.refresh(relocate=True)
    return watched


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


async def test_systemd_reload_during_the_lookup_leads_to_another_lookup(systemd: Systemd) -> None:
    systemd.answering.clear()
    watched = watched_unit(systemd, lambda _: None)
    await until_idle()
    assert systemd.lookups == 1

    watched.refresh(relocate=True)
    systemd.answering.set()
    await until_idle()

    assert systemd.lookups == 2
    await watched.close()


async def test_cancellation_while_a_watch_is_closed_is_not_swallowed(systemd: Systemd) -> None:
    watcher = UnitWatcher(cast(Systemd1, systemd))
    await watcher.watch(["a.service"], lambda _: None)
    await until_idle()
    systemd.answering.clear()
    watcher.refresh()
    await until_idle()
    stopping = asyncio.create_task(watcher.watch([], lambda _: None))
    await asyncio.sleep(0)

    stopping.cancel()

    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert systemd.unsubscribed == 1


async def test_result_of_a_unit_is_read_after_its_state() -> None:
    result = "success"

    class Bus:
        """A bus with a unit that fails right after its first property was read."""

        async def call(self, _: str, path: str, __: str, member: str, *request: Any, **___: Any) -> tuple[Any, ...]:
            nonlocal result
            if member == "LoadUnit":
                return ("/a",)
            answer, failed = result, result != "success"
            result = "exit-code"
            if member == "Get":
                assert request[1] == (SYSTEMD_SERVICE, "Result")
                return (answer,)
            return ({"ActiveState": "failed" if failed else "active", "LoadState": "loaded"},)

    state = (await Systemd1(cast(BusConnection, Bus())).read("a.service")).state

    assert (state.activity, state.result) != (UnitActivity.FAILED, "success")


async def test_unexpected_error_does_not_end_the_watch(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    systemd.faults.append(ZeroDivisionError())
    states: list[UnitState] = []
    watched = watched_unit(systemd, states.append)
    await until_idle()
    assert (states, "a.service cannot be watched at the moment" in caplog.text) == ([], True)

    watched.refresh()
    await until_idle()

    assert [state.activity for state in states] == [UnitActivity.ACTIVE]
    await watched.close()


async def test_a_watch_that_is_closed_while_its_rule_is_added_leaves_no_rule(systemd: Systemd) -> None:
    of = cast(Systemd1, systemd)
    watched = WatchedUnit(of, UnitSignals(of), "a.service", lambda _: None)
    systemd.answering.clear()
    listening = asyncio.create_task(watched.listen_to("/1"))
    await until_idle()
    await watched.close()

    systemd.answering.set()
    await listening

    assert (systemd.subscribed, systemd.unsubscribed) == (1, 1)


async def test_two_overlapping_changes_of_the_path_leave_one_rule(systemd: Systemd) -> None:
    of = cast(Systemd1, systemd)
    watched = WatchedUnit(of, UnitSignals(of), "a.service", lambda _: None)
    systemd.answering.clear()
    changes = [asyncio.create_task(watched.listen_to(path)) for path in ("/1", "/2")]
    await until_idle()

    systemd.answering.set()
    await asyncio.gather(*changes)

    assert (systemd.subscribed, systemd.unsubscribed) == (2, 1)
    await watched.close()
    assert systemd.unsubscribed == 2


class CrowdedBus(Systemd):
    """A bus that grants two rules for single units, and the rule for all units only once it has room."""

    def __init__(self) -> None:
        super().__init__()
        self.has_room = False
        self.shared = asyncio.Event()

    async def listen_to_unit(self, path: str, callback: Callable[[Signal], None]) -> Systemd:
        if self.subscribed - self.unsubscribed >= 2:
            raise BusError(LIMITS_EXCEEDED, "too many rules")
        return await super().listen_to_unit(path, callback)

    async def listen_to_all_units(self, callback: Callable[[Signal], None], wanted_paths: object) -> Systemd:
        if not self.has_room:
            raise BusError(LIMITS_EXCEEDED, "too many rules")
        self.shared.set()
        return self

    async def stop_listening_to_all_units(self, subscription: Systemd) -> None:
        await subscription.cancel()

    async def list_units(self, units: Collection[str]) -> dict[str, ListedUnit]:
        return {}


async def test_units_that_lost_their_rules_get_one_after_the_unit_that_took_them_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpumand.service_manager.watcher.RETRY_SEC", 0.0)
    bus = CrowdedBus()
    watcher = UnitWatcher(cast(Systemd1, bus))
    await watcher.watch(["a.service", "b.service"], lambda _: None)
    await until_idle()
    await watcher.watch(["a.service", "b.service", "c.service"], lambda _: None)
    await until_idle()
    assert (bus.subscribed, bus.unsubscribed) == (2, 2), "the rules of a and b made room in vain"

    await watcher.watch(["a.service", "b.service"], lambda _: None)
    bus.has_room = True

    async with asyncio.timeout(30):
        await bus.shared.wait()
    await watcher.close()
