"""What is heard of logind on a real bus: its announcements, its restarts, its silence, and who pretends to be it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.service_manager import logind as module
from gpumand.service_manager.logind import LOGIND_MANAGER, LOGIND_PATH, Logind
from gpumand.testing.bus import PrivateBus
from gpumand.testing.login1 import FakeLogind
from tests.integration.service_manager.host import until


@dataclass
class Listening:
    """The fake, who listens to it, and what was heard."""

    bus: PrivateBus
    fake: FakeLogind
    logind: Logind
    heard: list[tuple[str, bool]] = field(default_factory=list)

    async def listen(self) -> None:
        await self.logind.listen(
            lambda going: self.heard.append(("sleep", going)), lambda going: self.heard.append(("shutdown", going))
        )

    async def hears(self, *expected: tuple[str, bool]) -> None:
        await until(lambda: tuple(self.heard[-len(expected) :]) == expected)


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    async with PrivateBus() as bus:
        connection = await BusConnection.connect(bus.address)
        made = Listening(bus, FakeLogind(bus.address), Logind(connection))
        yield made
        made.fake.answering.set()
        await made.logind.close()
        await made.fake.stop()
        await connection.close()


QUIET = [("sleep", False), ("shutdown", False)]


async def test_announcements_are_heard_in_order(listening: Listening) -> None:
    await listening.fake.start()
    await listening.listen()
    assert listening.heard == QUIET
    for what, going in (("Sleep", True), ("Sleep", False), ("Shutdown", True), ("Shutdown", False)):
        listening.fake.prepare(what, going)
    await listening.hears(("sleep", True), ("sleep", False), ("shutdown", True), ("shutdown", False))


async def test_what_was_announced_before_we_came_is_known(listening: Listening) -> None:
    await listening.fake.start()
    listening.fake.preparing |= {"Sleep": True, "Shutdown": True}
    await listening.listen()
    assert listening.heard == [("sleep", True), ("shutdown", True)]
    assert await listening.logind.is_preparing_for_sleep()


async def test_without_logind_nothing_is_announced_until_it_appears(listening: Listening) -> None:
    await listening.listen()
    assert listening.heard == QUIET
    assert not await listening.logind.is_preparing_for_sleep()
    listening.fake.preparing["Sleep"] = True
    await listening.fake.start()
    await listening.hears(("sleep", True), ("shutdown", False))


async def test_a_logind_that_starts_anew_says_how_things_are(listening: Listening) -> None:
    await listening.fake.start()
    await listening.listen()
    listening.fake.prepare("Sleep", True)
    await listening.hears(("sleep", True))
    await listening.fake.stop()
    listening.fake.preparing["Sleep"] = False  # it was killed, and knows nothing any more
    await listening.fake.start()
    await listening.hears(("sleep", False), ("shutdown", False))
    listening.fake.prepare("Sleep", True)
    await listening.hears(("sleep", True))


async def test_a_logind_that_starts_anew_and_is_slow_to_answer_is_asked_again(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_TIMEOUT_SEC", 0.1)
    monkeypatch.setattr(module, "READ_AGAIN_SEC", 0.05)
    await listening.fake.start()
    await listening.listen()
    listening.fake.prepare("Shutdown", True)
    await listening.hears(("shutdown", True))
    await listening.fake.stop()
    listening.fake.preparing["Shutdown"] = False
    listening.fake.answering.clear()
    asked = listening.fake.asked
    await listening.fake.start()
    await until(lambda: listening.fake.asked >= asked + 2)
    assert listening.heard[-1] == ("shutdown", True)
    listening.fake.answering.set()
    await listening.hears(("shutdown", False))


async def test_an_announcement_that_comes_while_we_ask_is_newer_than_the_answer(listening: Listening) -> None:
    await listening.listen()
    listening.heard.clear()
    listening.fake.answering.clear()
    await listening.fake.start()
    await until(lambda: listening.fake.asked > 0)
    listening.fake.prepare("Sleep", True)
    await listening.hears(("sleep", True))
    listening.fake.preparing["Sleep"] = False  # what an answer would say that was on its way already
    listening.fake.answering.set()
    await listening.hears(("sleep", True), ("shutdown", False))


async def test_a_logind_that_does_not_answer_is_not_waited_for(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_TIMEOUT_SEC", 0.2)
    listening.fake.answering.clear()
    await listening.fake.start()
    await listening.listen()
    assert listening.heard == []
    assert not await listening.logind.is_preparing_for_sleep()
    listening.fake.prepare("Shutdown", True)
    await listening.hears(("shutdown", True))


async def test_nobody_else_can_announce_anything(listening: Listening) -> None:
    await listening.fake.start()
    await listening.listen()
    stranger = await BusConnection.connect(listening.bus.address)
    to_us = listening.logind._bus.unique_name
    for member in ("PrepareForSleep", "PrepareForShutdown"):
        for destination in ("", to_us):
            stranger.emit(LOGIND_PATH, LOGIND_MANAGER, member, "b", (True,), destination=destination)
    await stranger.flush()
    listening.fake.prepare("Shutdown", False)
    await listening.hears(*QUIET, ("shutdown", False))
    assert listening.heard == [*QUIET, ("shutdown", False)]
    await stranger.close()


async def test_an_announcement_of_another_shape_is_none(listening: Listening) -> None:
    await listening.fake.start()
    await listening.listen()
    assert listening.fake._bus is not None
    listening.fake._bus.emit(LOGIND_PATH, LOGIND_MANAGER, "PrepareForSleep", "s", ("true",))
    listening.fake._bus.emit(LOGIND_PATH, LOGIND_MANAGER, "PrepareForSleep", "", ())
    listening.fake.prepare("Sleep", False)
    await listening.hears(*QUIET, ("sleep", False))


async def test_a_lost_bus_is_no_error_here(listening: Listening) -> None:
    await listening.fake.start()
    listening.bus.kill()
    await listening.listen()
    assert listening.heard == []
    assert not await listening.logind.is_preparing_for_sleep()
