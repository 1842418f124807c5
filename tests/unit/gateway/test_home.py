"""Which consumers are loaded again when their device is idle."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.client.values import Consumer, StandingLease, Status, WaitingRequest
from gpumand.gateway.home import away


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
