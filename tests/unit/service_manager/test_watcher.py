"""What happens to a watch of a unit while it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.bus.names import SYSTEMD_SERVICE
from gpumand.bus.signal_matches import Signal
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.service_manager.manager import NO_JOB, Systemd1, Unit
from gpumand.service_manager.watcher import UnitWatcher, WatchedUnit


class Systemd:
    """As much of Systemd1 as a watch needs; a test holds its answers."""

    def __init__(self) -> None:
        self.located = 0
        self.unsubscribed = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.faults: list[Exception] = []

    async def unit_path(self, unit: str) -> str:
        self.located += 1
        path = f"/{self.located}"
        await self.answering.wait()
        return path

    async def listen_to_unit(self, path: str, callback: Callable[[Signal], None]) -> Systemd:
        return self

    async def cancel(self) -> None:
        self.unsubscribed += 1

    async def read(self, unit: str) -> Unit:
        if self.faults:
            raise self.faults.pop()
        return Unit(UnitState(unit, UnitActivity.ACTIVE), f"/{self.located}", NO_JOB, ())


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


async def test_a_reload_of_systemd_while_the_unit_is_looked_for_has_it_looked_for_again(systemd: Systemd) -> None:
    systemd.answering.clear()
    watched = WatchedUnit(cast(Systemd1, systemd), "a.service", lambda _: None)
    await until_idle()
    assert systemd.located == 1

    watched.refresh(relocate=True)
    systemd.answering.set()
    await until_idle()

    assert systemd.located == 2
    await watched.close()


async def test_who_is_stopped_while_it_stops_watching_hears_of_it(systemd: Systemd) -> None:
    watcher = UnitWatcher(cast(Systemd1, systemd))
    await watcher.watch(["a.service"], lambda _: None)
    await until_idle()
    stopping = asyncio.create_task(watcher.watch([], lambda _: None))
    await asyncio.sleep(0)

    stopping.cancel()

    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert systemd.unsubscribed == 1


async def test_the_result_of_a_unit_is_not_older_than_its_state() -> None:
    result = "success"

    class Bus:
        """systemd's, on which the unit dies as soon as it was asked about once."""

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


async def test_an_answer_that_nobody_thought_of_is_not_the_end_of_watching(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.faults.append(ZeroDivisionError())
    told: list[UnitState] = []
    watched = WatchedUnit(cast(Systemd1, systemd), "a.service", told.append)
    await until_idle()
    assert (told, "a.service is not watched at the moment" in caplog.text) == ([], True)

    watched.refresh()
    await until_idle()

    assert [state.activity for state in told] == [UnitActivity.ACTIVE]
    await watched.close()
