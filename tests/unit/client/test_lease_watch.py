"""The holder of a lease detects its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.bus.signal_matches import Signal
from gpumand.client.calls import Calls
from gpumand.client.lease_watch import MAX_EARLY_ENDS, Ended, LeaseWatch

DEADLINE_SEC = 30.0


class Connection:
    """A connection that a test can lose."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    async def wait_lost(self) -> None:
        await self.lost.wait()


class Bus:
    """The methods of Calls that LeaseWatch uses, controlled by the test.

    Attributes:
        answers: answers of GetStatus, in order: ids of active leases, or an error.
        answered_all: set when the last answer was given.
    """

    def __init__(self) -> None:
        self.connection = Connection()
        self.answers: list[list[Any] | Exception] = []
        self.answered_all = asyncio.Event()
        self._on_end: Callable[[Signal], None] = lambda _: None
        self._on_health: Callable[[Signal], None] = lambda _: None
        self._on_owner: Callable[[Signal], None] = lambda _: None
        self._on_wanted: Callable[[Signal], None] = lambda _: None

    async def listen_for_lease_ends(self, callback: Callable[[Signal], None]) -> None:
        self._on_end = callback

    async def listen_for_lease_health(self, callback: Callable[[Signal], None]) -> None:
        self._on_health = callback

    async def listen_for_wanted_leases(self, callback: Callable[[Signal], None]) -> None:
        self._on_wanted = callback

    async def listen_for_owner_changes(self, callback: Callable[[Signal], None]) -> None:
        self._on_owner = callback

    async def status(self) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if not self.answers:
            self.answered_all.set()
        if isinstance(answer, Exception):
            raise answer
        return {"leases": [{"id": one} if isinstance(one, str) else one for one in answer]}

    def end(self, *body: Any) -> None:
        self._on_end(Signal(":1.2", "/org/gpumand1", "org.gpumand1.Manager", "LeaseEnded", body))

    def health(self, member: str, *body: Any) -> None:
        self._on_health(Signal(":1.2", "/org/gpumand1", "org.gpumand1.Manager", member, body))

    def wanted(self, *body: Any) -> None:
        self._on_wanted(Signal(":1.2", "/org/gpumand1", "org.gpumand1.Manager", "LeaseWanted", body))

    def owner(self, now: str) -> None:
        body = ("org.gpumand1", "", now)
        self._on_owner(Signal("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameOwnerChanged", body))


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
async def watch(bus: Bus) -> AsyncIterator[LeaseWatch]:
    """A watch that reports an absent daemon at once."""
    one = LeaseWatch(cast(Calls, bus), return_sec=0.0)
    await one.listen()
    yield one
    await one.stop()


async def reason(ended: Ended) -> str:
    return await asyncio.wait_for(ended.wait(), DEADLINE_SEC)


async def test_end_of_the_lease_has_its_reason(bus: Bus, watch: LeaseWatch) -> None:
    watch.follow("mine")
    assert (watch.ended.is_set(), watch.ended.reason) == (False, "")
    bus.end("mine", "comfyui", "revoked")
    assert await reason(watch.ended) == "revoked"


async def test_ends_of_other_leases_are_ignored(bus: Bus, watch: LeaseWatch) -> None:
    bus.end("theirs", "comfyui", "released")
    watch.follow("mine")
    bus.end("theirs", "comfyui", "released")
    bus.end("mine")
    bus.end()
    assert not watch.ended.is_set()


async def test_end_that_arrives_before_the_grant_counts(bus: Bus, watch: LeaseWatch) -> None:
    bus.end("mine", "comfyui", "revoked")
    watch.follow("mine")
    assert await reason(watch.ended) == "revoked"


async def test_number_of_remembered_ends_is_limited(bus: Bus, watch: LeaseWatch) -> None:
    bus.end("first", "comfyui", "released")
    for number in range(MAX_EARLY_ENDS):
        bus.end(str(number), "comfyui", "expired")
    watch.follow("first")
    assert not watch.ended.is_set()


async def test_only_the_first_reason_counts(bus: Bus, watch: LeaseWatch) -> None:
    watch.follow("mine")
    bus.end("mine", "comfyui", "revoked")
    bus.end("mine", "comfyui", "owner-vanished")
    assert await reason(watch.ended) == "revoked"


async def test_lost_bus_ends_the_lease(bus: Bus, watch: LeaseWatch) -> None:
    watch.follow("mine")
    bus.connection.lost.set()
    assert await reason(watch.ended) == "bus-lost"


async def test_daemon_that_does_not_return_ends_the_lease(bus: Bus, watch: LeaseWatch) -> None:
    watch.follow("mine")
    bus.owner("")
    assert await reason(watch.ended) == "not-running"


async def test_daemon_that_returns_with_the_lease_changes_nothing(bus: Bus) -> None:
    watch = LeaseWatch(cast(Calls, bus))
    await watch.listen()
    watch.follow("mine")
    bus.answers = [["other", "mine"]]
    bus.owner("")
    bus.owner(":1.7")
    await asyncio.wait_for(bus.answered_all.wait(), DEADLINE_SEC)
    await asyncio.sleep(0)
    assert not watch.ended.is_set()
    await watch.stop()


async def test_daemon_that_returns_without_the_lease_ends_it(bus: Bus) -> None:
    watch = LeaseWatch(cast(Calls, bus))
    await watch.listen()
    watch.follow("mine")
    bus.answers = [["other", 7, {"id": 8}]]
    bus.owner(":1.7")
    assert await reason(watch.ended) == "forgotten"
    await watch.stop()


async def test_status_is_requested_again_if_the_daemon_does_not_answer(
    bus: Bus, watch: LeaseWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.client.lease_watch.RETRY_SEC", 0.0)
    watch.follow("mine")
    bus.answers = [BusError("org.freedesktop.DBus.Error.NoReply", "it left"), []]
    bus.owner(":1.7")
    assert await reason(watch.ended) == "forgotten"


async def test_bus_lost_during_the_status_request_is_the_reason(bus: Bus, watch: LeaseWatch) -> None:
    watch.follow("mine")
    bus.answers = [BusLost("the bus closed the connection")]
    bus.owner(":1.7")
    await asyncio.wait_for(bus.answered_all.wait(), DEADLINE_SEC)
    bus.connection.lost.set()
    assert await reason(watch.ended) == "bus-lost"


async def test_daemon_that_leaves_before_the_grant_arrives_is_noticed(bus: Bus, watch: LeaseWatch) -> None:
    bus.owner("")
    watch.follow("mine")
    assert await reason(watch.ended) == "not-running"


async def test_daemon_that_returns_without_the_lease_before_the_grant_arrives_is_noticed(
    bus: Bus, watch: LeaseWatch
) -> None:
    bus.answers = [["other"]]
    bus.owner("")
    bus.owner(":1.7")
    watch.follow("mine")
    assert await reason(watch.ended) == "forgotten"


# -- the state of the consumer -----------------------------------------------------------------------------------------


async def test_a_lost_consumer_is_reported_until_it_is_back(bus: Bus, watch: LeaseWatch) -> None:
    changes: list[str] = []
    watch.degraded.on_change(changes.append)
    watch.follow("mine")
    bus.health("LeaseDegraded", "theirs", "comfyui", "crashed")
    bus.health("LeaseDegraded", "mine")
    assert not watch.degraded.is_set()

    bus.health("LeaseDegraded", "mine", "comfyui", "crashed")
    assert await asyncio.wait_for(watch.degraded.wait(), DEADLINE_SEC) == "crashed"
    bus.health("LeaseRestored", "mine", "comfyui")
    await asyncio.wait_for(watch.degraded.wait_restored(), DEADLINE_SEC)
    assert (watch.degraded.is_set(), watch.degraded.reason, changes) == (False, "", ["crashed", ""])
    assert not watch.ended.is_set()


async def test_a_loss_that_is_reported_before_the_grant_counts(bus: Bus, watch: LeaseWatch) -> None:
    bus.health("LeaseDegraded", "mine", "comfyui", "crashed")
    for number in range(MAX_EARLY_ENDS - 1):
        bus.health("LeaseDegraded", str(number), "comfyui", "crashed")
    watch.follow("mine")
    assert watch.degraded.reason == "crashed"


async def test_a_loss_while_the_daemon_was_away_is_taken_from_its_status(bus: Bus) -> None:
    watch = LeaseWatch(cast(Calls, bus))
    await watch.listen()
    watch.follow("mine")
    bus.answers = [[{"id": "mine", "degraded": "crashed"}]]
    bus.owner(":1.7")
    assert await asyncio.wait_for(watch.degraded.wait(), DEADLINE_SEC) == "crashed"
    await watch.stop()


async def test_a_callback_that_fails_stops_no_other(bus: Bus, watch: LeaseWatch) -> None:
    def fail(_: str) -> None:
        raise ValueError("of the program")

    changes: list[str] = []
    watch.degraded.on_change(fail)
    watch.degraded.on_change(changes.append)
    watch.follow("mine")
    bus.health("LeaseDegraded", "mine", "comfyui", "crashed")
    assert changes == ["crashed"]


async def test_requests_that_wait_for_this_lease_are_reported_and_those_for_others_are_not(
    bus: Bus, watch: LeaseWatch
) -> None:
    asked: list[str] = []
    watch.wanted.on_request(asked.append)
    watch.follow("mine")
    bus.wanted("theirs", "comfyui", 5)
    bus.wanted("mine", "comfyui")
    assert not watch.wanted.is_set()

    bus.wanted("mine", "comfyui", 5)
    bus.wanted("mine", "tts", 6)
    bus.wanted("mine", "tts", 7)

    assert await asyncio.wait_for(watch.wanted.wait(), DEADLINE_SEC) == "comfyui"
    assert (asked, watch.wanted.by) == (["comfyui", "tts", "tts"], ("comfyui", "tts"))


async def test_a_request_that_is_reported_before_the_grant_counts(bus: Bus, watch: LeaseWatch) -> None:
    bus.wanted("mine", "comfyui", 5)
    for number in range(MAX_EARLY_ENDS - 1):
        bus.wanted(str(number), "tts", 6)
    watch.follow("mine")

    assert watch.wanted.by == ("comfyui",)


async def test_a_callback_for_a_request_that_fails_stops_no_other(bus: Bus, watch: LeaseWatch) -> None:
    asked: list[str] = []

    def fail(by: str) -> None:
        raise ValueError(by)

    watch.wanted.on_request(fail)
    watch.wanted.on_request(asked.append)
    watch.follow("mine")
    bus.wanted("mine", "comfyui", 5)

    assert asked == ["comfyui"]
