"""The order of calls to the bus when a name is watched, and the effect of its replies."""

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
        self._bus.requests.append(f"unmatch {self._arg0}")
        self._bus.listening.pop(self._arg0)


class ScriptedBus:
    """Records its calls in order, and answers as the test sets it."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.listening: dict[str, Callable[[Signal], None]] = {}
        self.present: bool | BaseException = True
        self.refuses: set[str] = set()
        self.before_answering: Callable[[], object] = lambda: None

    async def subscribe(self, *, callback: Callable[[Signal], None], arg0: str, **rule: str) -> ScriptedSubscription:
        assert rule == {"sender": DBUS, "path": DBUS_PATH, "interface": DBUS, "member": "NameOwnerChanged"}
        self.requests.append(f"match {arg0}")
        if arg0 in self.refuses:
            raise BusError("org.freedesktop.DBus.Error.LimitsExceeded", "no more match rules")
        self.listening[arg0] = callback
        return ScriptedSubscription(self, arg0)

    async def call(self, *request: Any) -> tuple[Any, ...]:
        assert request[:5] == (DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s")
        self.requests.append(f"ask {request[5][0]}")
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
def presence(bus: ScriptedBus, gone: list[str]) -> ClientPresence:
    made = ClientPresence(cast(BusConnection, bus), gone.append)
    made.may_forget = True
    return made


async def test_match_rule_is_added_before_the_bus_is_asked(bus: ScriptedBus, presence: ClientPresence) -> None:
    assert await presence.watch(ALICE)
    assert bus.requests == [f"match {ALICE}", f"ask {ALICE}"]


async def test_watched_name_is_asked_for_only_once(bus: ScriptedBus, presence: ClientPresence) -> None:
    assert await asyncio.gather(*(presence.watch(ALICE) for _ in range(3))) == [True] * 3
    assert len(bus.requests) == 2


async def test_absent_name_is_not_watched(bus: ScriptedBus, presence: ClientPresence, gone: list[str]) -> None:
    bus.present = False
    assert not await presence.watch(ALICE)
    await presence.close()
    assert bus.requests[-1] == f"unmatch {ALICE}"
    assert presence.watched == frozenset()
    assert gone == []  # the caller of watch() knows from the return value


@pytest.mark.parametrize("error", [BusTimeout("no answer"), BusError("org.freedesktop.DBus.Error.Failed", "what?")])
async def test_failed_query_counts_as_present(bus: ScriptedBus, presence: ClientPresence, error: BusError) -> None:
    bus.present = error
    assert await presence.watch(ALICE)
    assert presence.watched == {ALICE}


async def test_name_that_leaves_during_the_query_is_gone(
    bus: ScriptedBus, presence: ClientPresence, gone: list[str]
) -> None:
    bus.before_answering = lambda: bus.leaves(ALICE)
    assert not await presence.watch(ALICE)  # although the reply was yes
    assert gone == [ALICE]


async def test_leaving_is_reported_once_and_only_for_watched_names(
    bus: ScriptedBus, presence: ClientPresence, gone: list[str]
) -> None:
    await presence.watch(ALICE)
    bus.leaves(":1.8")
    bus.leaves(ALICE)
    bus.leaves(ALICE)
    assert gone == [ALICE]
    await presence.close()
    assert bus.listening == {}


async def test_new_owner_of_a_name_is_not_a_departure(
    bus: ScriptedBus, presence: ClientPresence, gone: list[str]
) -> None:
    await presence.watch(ALICE)
    bus.listening[ALICE](Signal(DBUS, DBUS_PATH, DBUS, "NameOwnerChanged", (ALICE, "", ":1.9")))
    assert gone == []
    assert presence.watched == {ALICE}


async def test_refused_rule_is_replaced_by_an_unfiltered_rule(
    bus: ScriptedBus, presence: ClientPresence, gone: list[str]
) -> None:
    bus.refuses = {ALICE}
    assert await presence.watch(ALICE)
    assert bus.requests == [f"match {ALICE}", "match ", f"ask {ALICE}"]
    bus.leaves(ALICE)
    assert gone == [ALICE]
    await presence.close()
    assert bus.requests[-1] == "unmatch "


async def test_watch_fails_if_every_rule_is_refused_and_can_be_retried(
    bus: ScriptedBus, presence: ClientPresence
) -> None:
    bus.refuses = {ALICE, ""}
    with pytest.raises(BusError):
        await presence.watch(ALICE)
    assert presence.watched == frozenset()
    bus.refuses.clear()
    assert await presence.watch(ALICE)


async def test_names_beyond_the_limit_share_one_unfiltered_rule(
    bus: ScriptedBus, presence: ClientPresence, gone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_NAME_MATCHES", 2)
    names = [f":1.{number}" for number in range(5)]
    for name in names:
        assert await presence.watch(name)
    assert sorted(bus.listening) == ["", ":1.0", ":1.1"]
    for name in names[2:]:
        bus.leaves(name)
    await presence.close()
    assert gone == names[2:]
    assert sorted(bus.listening) == [":1.0", ":1.1"]


async def test_retained_names_outlast_idle_names(
    bus: ScriptedBus, presence: ClientPresence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_IDLE_WATCHES", 2)
    presence.retain_watch(ALICE)
    presence.retain_watch(ALICE)
    for number in range(20, 25):
        await presence.watch(ALICE if number == 20 else f":1.{number}")
    assert presence.watched == {ALICE, ":1.23", ":1.24"}
    presence.release_watch(ALICE)
    assert ALICE in presence.watched
    presence.release_watch(ALICE)
    assert presence.watched == {":1.23", ":1.24"}  # ALICE was used the longest time ago
    await presence.close()
    assert sorted(bus.listening) == [":1.23", ":1.24"]


async def test_cancelling_one_of_two_watch_calls_keeps_the_other(bus: ScriptedBus, presence: ClientPresence) -> None:
    first, second = (asyncio.ensure_future(presence.watch(ALICE)) for _ in range(2))
    bus.before_answering = first.cancel
    assert await second
    assert first.cancelled()
    assert presence.watched == {ALICE}


async def test_name_that_leaves_right_after_the_reply_is_gone(
    bus: ScriptedBus, presence: ClientPresence, gone: list[str]
) -> None:
    bus.before_answering = lambda: asyncio.get_running_loop().call_soon(bus.leaves, ALICE)

    assert not await presence.watch(ALICE)
    assert gone == [ALICE]
