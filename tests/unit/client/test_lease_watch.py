"""When a lease is over, as its holder finds out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.signal_matches import Signal
from gpumand.client.calls import Calls
from gpumand.client.lease_watch import MOST_ENDS, Ended, Watch

DEADLINE_SEC = 5.0


class Connection:
    """One that can be lost."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    async def wait_lost(self) -> None:
        await self.lost.wait()


class Bus:
    """What a Watch needs of Calls; a test says what happens.

    Attributes:
        answers: of GetStatus, in order; the ids of leases that stand, or an error.
    """

    def __init__(self) -> None:
        self.connection = Connection()
        self.answers: list[list[Any] | Exception] = []
        self.asked = asyncio.Event()
        self._on_end: Callable[[Signal], None] = lambda _: None
        self._on_owner: Callable[[Signal], None] = lambda _: None

    async def listen_for_ends(self, callback: Callable[[Signal], None]) -> None:
        self._on_end = callback

    async def listen_for_owners(self, callback: Callable[[Signal], None]) -> None:
        self._on_owner = callback

    async def status(self) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if not self.answers:
            self.asked.set()
        if isinstance(answer, Exception):
            raise answer
        return {"leases": [{"id": one} if isinstance(one, str) else one for one in answer]}

    def end(self, *body: Any) -> None:
        self._on_end(Signal(":1.2", "/org/gpumand1", "org.gpumand1.Manager", "LeaseEnded", body))

    def owner(self, now: str) -> None:
        body = ("org.gpumand1", "", now)
        self._on_owner(Signal("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameOwnerChanged", body))


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
async def watch(bus: Bus) -> AsyncIterator[Watch]:
    """Of the lease "mine", with no patience for a daemon that went away."""
    one = Watch(cast(Calls, bus), gone_sec=0.0)
    await one.listen()
    yield one
    await one.stop()


async def reason(ended: Ended) -> str:
    return await asyncio.wait_for(ended.wait(), DEADLINE_SEC)


async def test_end_of_the_lease_is_told_with_its_reason(bus: Bus, watch: Watch) -> None:
    watch.follow("mine")
    assert (watch.ended.is_set(), watch.ended.reason) == (False, "")
    bus.end("mine", "comfyui", "revoked")
    assert await reason(watch.ended) == "revoked"


async def test_ends_of_others_are_none_of_our_business(bus: Bus, watch: Watch) -> None:
    bus.end("theirs", "comfyui", "released")
    watch.follow("mine")
    bus.end("theirs", "comfyui", "released")
    bus.end("mine")
    bus.end()
    assert not watch.ended.is_set()


async def test_end_that_overtakes_the_grant_counts(bus: Bus, watch: Watch) -> None:
    bus.end("mine", "comfyui", "revoked")
    watch.follow("mine")
    assert await reason(watch.ended) == "revoked"


async def test_ends_while_waiting_do_not_fill_the_memory(bus: Bus, watch: Watch) -> None:
    bus.end("first", "comfyui", "released")
    for number in range(MOST_ENDS):
        bus.end(str(number), "comfyui", "expired")
    watch.follow("first")
    assert not watch.ended.is_set()


async def test_only_the_first_reason_counts(bus: Bus, watch: Watch) -> None:
    watch.follow("mine")
    bus.end("mine", "comfyui", "revoked")
    bus.end("mine", "comfyui", "owner-vanished")
    assert await reason(watch.ended) == "revoked"


async def test_lost_bus_ends_the_lease(bus: Bus, watch: Watch) -> None:
    watch.follow("mine")
    bus.connection.lost.set()
    assert await reason(watch.ended) == "bus-lost"


async def test_daemon_that_does_not_come_back_is_gone(bus: Bus, watch: Watch) -> None:
    watch.follow("mine")
    bus.owner("")
    assert await reason(watch.ended) == "not-running"


async def test_daemon_that_comes_back_with_the_lease_changes_nothing(bus: Bus) -> None:
    watch = Watch(cast(Calls, bus))
    await watch.listen()
    watch.follow("mine")
    bus.answers = [["other", "mine"]]
    bus.owner("")
    bus.owner(":1.7")
    await asyncio.wait_for(bus.asked.wait(), DEADLINE_SEC)
    await asyncio.sleep(0)
    assert not watch.ended.is_set()
    await watch.stop()


async def test_daemon_that_comes_back_without_the_lease_has_forgotten_it(bus: Bus) -> None:
    watch = Watch(cast(Calls, bus))
    await watch.listen()
    watch.follow("mine")
    bus.answers = [["other", 7, {"id": 8}]]
    bus.owner(":1.7")
    assert await reason(watch.ended) == "forgotten"
    await watch.stop()


async def test_daemon_that_cannot_answer_yet_is_asked_again(
    bus: Bus, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.client.lease_watch.RETRY_SEC", 0.0)
    watch.follow("mine")
    bus.answers = [BusError("org.freedesktop.DBus.Error.NoReply", "it left"), []]
    bus.owner(":1.7")
    assert await reason(watch.ended) == "forgotten"


async def test_bus_that_breaks_while_the_daemon_is_asked_is_the_reason(bus: Bus, watch: Watch) -> None:
    watch.follow("mine")
    bus.answers = [BusLost("the bus closed the connection")]
    bus.owner(":1.7")
    await asyncio.wait_for(bus.asked.wait(), DEADLINE_SEC)
    bus.connection.lost.set()
    assert await reason(watch.ended) == "bus-lost"


async def test_a_daemon_that_went_while_the_grant_was_on_its_way_is_missed(bus: Bus, watch: Watch) -> None:
    bus.owner("")
    watch.follow("mine")
    assert await reason(watch.ended) == "not-running"


async def test_one_that_came_back_without_the_lease_while_the_grant_was_on_its_way_is_asked(
    bus: Bus, watch: Watch
) -> None:
    bus.answers = [["other"]]
    bus.owner("")
    bus.owner(":1.7")
    watch.follow("mine")
    assert await reason(watch.ended) == "forgotten"
