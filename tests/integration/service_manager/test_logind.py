"""Listening to logind on a real bus: announcements, restarts, hangs, and forged announcements."""

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
class LogindListener:
    """The fake logind, its listener, and the received announcements."""

    bus: PrivateBus
    fake: FakeLogind
    logind: Logind
    received: list[tuple[str, bool]] = field(default_factory=list)

    async def listen(self) -> None:
        await self.logind.listen(
            lambda active: self.received.append(("sleep", active)),
            lambda active: self.received.append(("shutdown", active)),
        )

    async def wait_for(self, *expected: tuple[str, bool]) -> None:
        await until(lambda: tuple(self.received[-len(expected) :]) == expected)


@pytest.fixture
async def listener() -> AsyncIterator[LogindListener]:
    async with PrivateBus() as bus:
        connection = await BusConnection.connect(bus.address)
        made = LogindListener(bus, FakeLogind(bus.address), Logind(connection))
        yield made
        made.fake.answering.set()
        await made.logind.close()
        await made.fake.stop()
        await connection.close()


QUIET = [("sleep", False), ("shutdown", False)]


async def test_announcements_arrive_in_order(listener: LogindListener) -> None:
    await listener.fake.start()
    await listener.listen()
    assert listener.received == QUIET
    for what, active in (("Sleep", True), ("Sleep", False), ("Shutdown", True), ("Shutdown", False)):
        listener.fake.prepare(what, active)
    await listener.wait_for(("sleep", True), ("sleep", False), ("shutdown", True), ("shutdown", False))


async def test_announcement_before_the_subscription_is_read(listener: LogindListener) -> None:
    await listener.fake.start()
    listener.fake.preparing |= {"Sleep": True, "Shutdown": True}
    await listener.listen()
    assert listener.received == [("sleep", True), ("shutdown", True)]
    assert await listener.logind.is_preparing_for_sleep()


async def test_without_logind_nothing_is_announced_until_it_appears(listener: LogindListener) -> None:
    await listener.listen()
    assert listener.received == QUIET
    assert not await listener.logind.is_preparing_for_sleep()
    listener.fake.preparing["Sleep"] = True
    await listener.fake.start()
    await listener.wait_for(("sleep", True), ("shutdown", False))


async def test_restarted_logind_is_read_again(listener: LogindListener) -> None:
    await listener.fake.start()
    await listener.listen()
    listener.fake.prepare("Sleep", True)
    await listener.wait_for(("sleep", True))
    await listener.fake.stop()
    listener.fake.preparing["Sleep"] = False  # it was killed and has lost its state
    await listener.fake.start()
    await listener.wait_for(("sleep", False), ("shutdown", False))
    listener.fake.prepare("Sleep", True)
    await listener.wait_for(("sleep", True))


async def test_slow_restarted_logind_is_read_with_retries(
    listener: LogindListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_TIMEOUT_SEC", 0.1)
    monkeypatch.setattr(module, "READ_RETRY_SEC", 0.05)
    await listener.fake.start()
    await listener.listen()
    listener.fake.prepare("Shutdown", True)
    await listener.wait_for(("shutdown", True))
    await listener.fake.stop()
    listener.fake.preparing["Shutdown"] = False
    listener.fake.answering.clear()
    asked = listener.fake.asked
    await listener.fake.start()
    await until(lambda: listener.fake.asked >= asked + 2)
    assert listener.received[-1] == ("shutdown", True)
    listener.fake.answering.set()
    await listener.wait_for(("shutdown", False))


async def test_signal_during_the_read_is_newer_than_the_reply(listener: LogindListener) -> None:
    await listener.listen()
    listener.received.clear()
    listener.fake.answering.clear()
    await listener.fake.start()
    await until(lambda: listener.fake.asked > 0)
    listener.fake.prepare("Sleep", True)
    await listener.wait_for(("sleep", True))
    listener.fake.preparing["Sleep"] = False  # the value of a reply that was sent before the signal
    listener.fake.answering.set()
    await listener.wait_for(("sleep", True), ("shutdown", False))


async def test_hanging_logind_does_not_block_listen(listener: LogindListener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_TIMEOUT_SEC", 0.2)
    listener.fake.answering.clear()
    await listener.fake.start()
    await listener.listen()
    assert listener.received == []
    assert not await listener.logind.is_preparing_for_sleep()
    listener.fake.prepare("Shutdown", True)
    await listener.wait_for(("shutdown", True))


async def test_announcements_of_other_clients_are_ignored(listener: LogindListener) -> None:
    await listener.fake.start()
    await listener.listen()
    other = await BusConnection.connect(listener.bus.address)
    to_us = listener.logind._bus.unique_name
    for member in ("PrepareForSleep", "PrepareForShutdown"):
        for destination in ("", to_us):
            other.emit(LOGIND_PATH, LOGIND_MANAGER, member, "b", (True,), destination=destination)
    await other.flush()
    listener.fake.prepare("Shutdown", False)
    await listener.wait_for(*QUIET, ("shutdown", False))
    assert listener.received == [*QUIET, ("shutdown", False)]
    await other.close()


async def test_announcement_of_another_type_is_ignored(listener: LogindListener) -> None:
    await listener.fake.start()
    await listener.listen()
    assert listener.fake._bus is not None
    listener.fake._bus.emit(LOGIND_PATH, LOGIND_MANAGER, "PrepareForSleep", "s", ("true",))
    listener.fake._bus.emit(LOGIND_PATH, LOGIND_MANAGER, "PrepareForSleep", "", ())
    listener.fake.prepare("Sleep", False)
    await listener.wait_for(*QUIET, ("sleep", False))


async def test_lost_bus_is_not_an_error(listener: LogindListener) -> None:
    await listener.fake.start()
    listener.bus.kill()
    await listener.listen()
    assert listener.received == []
    assert not await listener.logind.is_preparing_for_sleep()
