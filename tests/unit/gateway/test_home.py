"""Which consumers are loaded again when their device is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from gpumand.client.errors import GpumandError, NoAnswer
from gpumand.client.values import Consumer, Plan, PlannedEviction, StandingLease, Status, WaitingRequest
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.home import HomeKeeper, away, leaves_in_place, neighbours
from gpumand.gateway.wakes import Wake


def consumer(name: str, residency: str, device: str = "0") -> Consumer:
    return Consumer(name, residency, device, 1, None, 0, None, False, False, "", "", "", None, "")


def lease(device: str) -> StandingLease:
    return StandingLease("1", "image", device, 0, "", "ttl", None, None, "")


def status(*consumers: Consumer, leases: tuple[StandingLease, ...] = (), queue: tuple[Any, ...] = ()) -> Status:
    return Status("1", "", (), consumers, leases, queue, {})


HOME = consumer("chat", "unloaded")
IMAGE = consumer("image", "resident")


@pytest.mark.parametrize("residency", ["unloaded", "parked"])
def test_consumer_that_is_not_in_memory_is_away_while_its_device_is_idle(residency: str) -> None:
    assert away(status(consumer("chat", residency), IMAGE), ("chat",)) == ("chat",)


@pytest.mark.parametrize("residency", ["resident", "loading", "unloading", "failed", "unknown"])
def test_consumer_that_is_in_memory_or_has_failed_is_left_alone(residency: str) -> None:
    assert away(status(consumer("chat", residency)), ("chat",)) == ()


def test_other_consumers_are_left_alone() -> None:
    assert away(status(HOME, IMAGE), ()) == ()
    assert away(status(HOME), ("other",)) == ()


@pytest.mark.parametrize("device", ["0", ""])
def test_device_with_a_lease_is_not_idle(device: str) -> None:
    assert away(status(HOME, IMAGE, leases=(lease(device),)), ("chat",)) == ()


def test_lease_on_another_device_does_not_matter() -> None:
    assert away(status(HOME, IMAGE, leases=(lease("1"),)), ("chat",)) == ("chat",)
    assert away(status(consumer("chat", "unloaded", ""), leases=(lease("1"),)), ("chat",)) == ()


@pytest.mark.parametrize("residency", ["loading", "unloading"])
def test_device_with_a_load_is_not_idle(residency: str) -> None:
    assert away(status(HOME, consumer("image", residency)), ("chat",)) == ()


def test_waiting_requests_come_first() -> None:
    waiting = WaitingRequest("image", 1, 0, 1.0, "", 0, "")

    assert away(status(HOME, queue=(waiting,)), ("chat",)) == ()


def test_consumers_that_are_away_are_in_the_order_of_the_configuration() -> None:
    assert away(status(HOME, consumer("code", "unloaded")), ("code", "chat")) == ("code", "chat")


def test_neighbours_are_the_other_consumers_at_home_that_may_be_in_memory() -> None:
    others = (consumer("code", "resident"), consumer("speech", "unknown"), consumer("small", "parked"), IMAGE)

    assert neighbours(status(HOME, *others), ("chat", "code", "speech", "small"), "chat") == ("code", "speech")


def plan(verdict: str, *victims: str) -> Plan:
    evictions = tuple(PlannedEviction(one, 1, "unload", "") for one in victims)
    return Plan("chat", verdict, "0", False, True, 1, 1, evictions, (), "", "")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (plan("grant"), True),
        (plan("grant", "image"), True),
        (plan("refuse"), True),
        (plan("grant", "image", "code"), False),
        (plan("wait"), False),
    ],
)
def test_load_at_home_evicts_no_other_consumer_at_home(made: Plan, expected: bool) -> None:
    assert leaves_in_place(made, ("code",)) is expected


class Card:
    """A device of 10 GiB; a load evicts whatever is in its way, as gpumand does.

    Attributes:
        loads: the consumers that were loaded, in order.
        checks: how many times the keeper has read the status.
    """

    def __init__(self, **sizes: int) -> None:
        self._sizes = sizes
        self.resident: list[str] = []
        self.loads: list[str] = []
        self.checks = 0
        self.error: GpumandError | None = None
        self.failing: tuple[str, ...] = ()

    async def get(self, max_age_sec: float) -> Status:
        self.checks += 1
        found = {name: "resident" if name in self.resident else "unloaded" for name in self._sizes}
        return status(*(consumer(*one) for one in found.items()))

    async def plan(self, name: str, priority: int) -> Plan:
        if self.error is not None:
            raise self.error
        return plan("grant", *self._victims(name))

    def request(self, name: str, priority: int, reason: str) -> Wake:
        if name in self.failing:
            return Wake(0.0, NoAnswer("gone"))
        for one in self._victims(name):
            self.resident.remove(one)
        self.resident.append(name)
        self.loads.append(name)
        return Wake(0.0)

    def _victims(self, name: str) -> list[str]:
        free = 10 - sum(self._sizes[one] for one in self.resident)
        victims = []
        for one in self.resident:
            if self._sizes[name] > free:
                victims.append(one)
                free += self._sizes[one]
        return victims


async def watched(card: Card, *home: str, until: Callable[[], bool] = lambda: True, checks: int = 8) -> None:
    """Watch a device for some checks."""
    settings = GatewaySettings(home=home, home_after_sec=0.002)
    keeper = HomeKeeper(lambda: settings, cast(Any, card), cast(Any, card), card)
    end = card.checks + checks
    keeper.start()
    try:
        async with asyncio.timeout(30):
            while card.checks < end or not until():  # noqa: ASYNC110 - the keeper announces no check
                await asyncio.sleep(0.002)
    finally:
        await keeper.close()


async def test_consumers_at_home_that_do_not_fit_together_never_evict_each_other() -> None:
    card = Card(chat=8, code=8)

    await watched(card, "code", "chat", until=lambda: bool(card.loads))
    assert card.loads == ["code"], "the first of the list"
    card.resident = ["chat"]
    await watched(card, "code", "chat")

    assert (card.loads, card.resident) == (["code"], ["chat"]), "the one that was used last stays"


async def test_consumers_at_home_that_fit_together_are_all_loaded_and_evict_others() -> None:
    card = Card(chat=5, code=4, image=8)
    card.resident = ["image"]

    await watched(card, "chat", "code", until=lambda: len(card.loads) > 1)

    assert (card.loads, card.resident) == (["chat", "code"], ["chat", "code"])


async def test_consumer_at_home_stays_away_while_its_load_cannot_be_planned() -> None:
    card = Card(chat=5, code=4)
    card.resident, card.error = ["chat"], NoAnswer("gone")

    await watched(card, "chat", "code")
    assert card.loads == []
    card.error = None
    await watched(card, "chat", "code", until=lambda: bool(card.loads))

    assert card.loads == ["code"]


async def test_consumer_whose_load_fails_does_not_keep_the_next_one_away() -> None:
    card = Card(chat=8, code=8)
    card.failing = ("chat",)

    await watched(card, "chat", "code", until=lambda: bool(card.loads))

    assert card.resident == ["code"]
