"""The order in which the bus is asked, and what its answers count for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from gpumand.bus import client_presence
from gpumand.bus.client_presence import ClientPresence
from gpumand.bus.connection import BusConnection, BusError, BusTimeout, Signal
from gpumand.bus.names import DBUS, DBUS_PATH

ALICE = ":1.7"


class ScriptedSubscription:
    def __init__(self, bus: ScriptedBus, arg0: str) -> None:
        self._bus, self._arg0 = bus, arg0

    async def cancel(self) -> None:
        self._bus.told.append(f"unmatch {self._arg0}")
        self._bus.listening.pop(self._arg0)


class ScriptedBus:
    """Notes what it is asked, in order; answers as it is told to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.listening: dict[str, Callable[[Signal], None]] = {}
        self.present: bool | BaseException = True
        self.refuses: set[str] = set()
        self.before_answering: Callable[[], None] = lambda: None

    async def subscribe(self, *, callback: Callable[[Signal], None], arg0: str, **rule: str) -> ScriptedSubscription:
        assert rule == {"sender": DBUS, "path": DBUS_PATH, "interface": DBUS, "member": "NameOwnerChanged"}
        self.told.append(f"match {arg0}")
        if arg0 in self.refuses:
            raise BusError("org.freedesktop.DBus.Error.LimitsExceeded", "no more match rules")
        self.listening[arg0] = callback
        return ScriptedSubscription(self, arg0)

    async def call(self, *request: Any) -> tuple[Any, ...]:
        assert request[:5] == (DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s")
        self.told.append(f"ask {request[5][0]}")
        self.before_answering()
        if isinstance(self.present, BaseException):
            raise self.present
        return (self.present,)

    def leaves(self, name: str) -> None:
        for callback in tuple(self.listening.values()):
            callback(Signal(DBUS, DBUS_PATH, DBUS, "NameOwnerChanged", (name, name, "")))


@pytest.fixture
def bus() -> ScriptedBus:
    return ScriptedBus()


@pytest.fixture
def gone() -> list[str]:
    return []


@pytest.fixture
def watcher(bus: ScriptedBus, gone: list[str]) -> ClientPresence:
    made = ClientPresence(cast(BusConnection, bus), gone.append)
    made.forgetting = True
    return made


async def test_match_is_added_before_the_question_is_asked(bus: ScriptedBus, watcher: ClientPresence) -> None:
    assert await watcher.watch(ALICE)
    assert bus.told == [f"match {ALICE}", f"ask {ALICE}"]


async def test_watch_that_stands_is_not_asked_about_again(bus: ScriptedBus, watcher: ClientPresence) -> None:
    assert await asyncio.gather(*(watcher.watch(ALICE) for _ in range(3))) == [True] * 3
    assert len(bus.told) == 2


async def test_clear_no_means_gone_and_leaves_no_match(
    bus: ScriptedBus, watcher: ClientPresence, gone: list[str]
) -> None:
    bus.present = False
    assert not await watcher.watch(ALICE)
    await watcher.close()
    assert bus.told[-1] == f"unmatch {ALICE}"
    assert watcher.watched == frozenset()
    assert gone == []  # whoever asked knows already


@pytest.mark.parametrize("silence", [BusTimeout("no answer"), BusError("org.freedesktop.DBus.Error.Failed", "what?")])
async def test_silence_is_no_proof_of_death(bus: ScriptedBus, watcher: ClientPresence, silence: BusError) -> None:
    bus.present = silence
    assert await watcher.watch(ALICE)
    assert watcher.watched == {ALICE}


async def test_death_while_the_question_is_under_way(
    bus: ScriptedBus, watcher: ClientPresence, gone: list[str]
) -> None:
    bus.before_answering = lambda: bus.leaves(ALICE)
    assert not await watcher.watch(ALICE)  # though the answer was yes
    assert gone == [ALICE]


async def test_death_is_told_once_and_of_watched_names_only(
    bus: ScriptedBus, watcher: ClientPresence, gone: list[str]
) -> None:
    await watcher.watch(ALICE)
    bus.leaves(":1.8")
    bus.leaves(ALICE)
    bus.leaves(ALICE)
    assert gone == [ALICE]
    await watcher.close()
    assert bus.listening == {}


async def test_name_that_is_taken_over_is_not_gone(bus: ScriptedBus, watcher: ClientPresence, gone: list[str]) -> None:
    await watcher.watch(ALICE)
    bus.listening[ALICE](Signal(DBUS, DBUS_PATH, DBUS, "NameOwnerChanged", (ALICE, "", ":1.9")))
    assert gone == []
    assert watcher.watched == {ALICE}


async def test_refused_rule_is_made_up_for_by_one_for_everybody(
    bus: ScriptedBus, watcher: ClientPresence, gone: list[str]
) -> None:
    bus.refuses = {ALICE}
    assert await watcher.watch(ALICE)
    assert bus.told == [f"match {ALICE}", "match ", f"ask {ALICE}"]
    bus.leaves(ALICE)
    assert gone == [ALICE]
    await watcher.close()
    assert bus.told[-1] == "unmatch "


async def test_bus_that_refuses_every_rule_is_an_error_and_may_be_tried_again(
    bus: ScriptedBus, watcher: ClientPresence
) -> None:
    bus.refuses = {ALICE, ""}
    with pytest.raises(BusError):
        await watcher.watch(ALICE)
    assert watcher.watched == frozenset()
    bus.refuses.clear()
    assert await watcher.watch(ALICE)


async def test_one_rule_for_everybody_from_the_limit_on(
    bus: ScriptedBus, watcher: ClientPresence, gone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_NAME_MATCHES", 2)
    names = [f":1.{number}" for number in range(5)]
    for name in names:
        assert await watcher.watch(name)
    assert sorted(bus.listening) == ["", ":1.0", ":1.1"]
    for name in names[2:]:
        bus.leaves(name)
    await watcher.close()
    assert gone == names[2:]
    assert sorted(bus.listening) == [":1.0", ":1.1"]


async def test_needed_names_outlast_idle_ones(
    bus: ScriptedBus, watcher: ClientPresence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_IDLE_WATCHES", 2)
    watcher.need(ALICE)
    watcher.need(ALICE)
    for number in range(20, 25):
        await watcher.watch(ALICE if number == 20 else f":1.{number}")
    assert watcher.watched == {ALICE, ":1.23", ":1.24"}
    watcher.done_with(ALICE)
    assert ALICE in watcher.watched
    watcher.done_with(ALICE)
    assert watcher.watched == {":1.23", ":1.24"}  # it was seen longest ago
    await watcher.close()
    assert sorted(bus.listening) == [":1.23", ":1.24"]


async def test_one_of_several_waiting_for_the_same_watch_may_be_cancelled(
    bus: ScriptedBus, watcher: ClientPresence
) -> None:
    first, second = (asyncio.ensure_future(watcher.watch(ALICE)) for _ in range(2))
    bus.before_answering = lambda: cast(None, first.cancel())
    assert await second
    assert first.cancelled()
    assert watcher.watched == {ALICE}


async def test_who_leaves_after_the_answer_and_before_it_is_heard_is_gone(
    bus: ScriptedBus, watcher: ClientPresence, gone: list[str]
) -> None:
    bus.before_answering = lambda: asyncio.get_running_loop().call_soon(bus.leaves, ALICE) and None

    assert not await watcher.watch(ALICE)
    assert gone == [ALICE]
