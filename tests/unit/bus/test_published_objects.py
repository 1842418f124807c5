"""Which objects an event updates: a reservation is a lease without a consumer object."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from dbus_fast import Variant

from gpumand.bus.interfaces import own_interfaces
from gpumand.bus.names import MANAGER
from gpumand.bus.object_tree import ObjectTree
from gpumand.bus.published_objects import PublishedObjects
from gpumand.domain.events import Event, LeaseEnded, LeaseGranted, LeaseReturned, LeaseWanted, SummaryChanged
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.reservation import Reservation
from gpumand.domain.status import Status, Summary

OWNER = Owner(":1.5", 1000)
LEASE = Lease("aa11", "llm", "0", OWNER, LeaseLifetime.TTL, 1)
RESERVATION = Reservation("bb22", 4096)
RESERVED = Lease("bb22", RESERVATION.name, "0", OWNER, LeaseLifetime.TTL, 1, reservation=RESERVATION)


class Bus:
    """A connection that records signals."""

    def __init__(self) -> None:
        self.signals: list[tuple[str, tuple[Any, ...]]] = []

    def emit(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...], **more: Any) -> None:
        self.signals.append((member, tuple(body)))

    def before_write(self, hook: Any) -> None:
        pass

    def schedule_write(self) -> None:
        pass


class World:
    """Published objects over an arbiter without consumers that records for which ones the status was asked."""

    def __init__(self) -> None:
        self.bus, self.asked, self.summaries = Bus(), list[str](), 0
        arbiter = SimpleNamespace(
            status=lambda: Status("1", "", (), (), (), ()),
            summary=self._summary,
            lease_count=lambda: 7,
            announced_consumer=self._status,
        )
        clients = SimpleNamespace(
            allow_forgetting=lambda: None, lease_granted=lambda lease: None, lease_ended=lambda lease: None
        )
        bus = cast(Any, self.bus)
        tree = ObjectTree(bus)
        self.published = PublishedObjects(bus, cast(Any, arbiter), cast(Any, clients), tree, own_interfaces(), "1")
        self.published.export()

    def _summary(self) -> Summary:
        self.summaries += 1
        return Summary("", 0, 5, 0)

    def _status(self, name: str) -> Any:
        from gpumand.domain.errors import NoSuchConsumer

        self.asked.append(name)
        raise NoSuchConsumer(name)


@pytest.mark.parametrize(("lease", "updated"), [(LEASE, ["llm"]), (RESERVED, [])])
@pytest.mark.parametrize("kind", ["granted", "ended", "returned"])
def test_only_a_lease_on_a_consumer_updates_a_consumer(lease: Lease, updated: list[str], kind: str) -> None:
    world = World()
    events: dict[str, Event] = {
        "granted": LeaseGranted(lease),
        "ended": LeaseEnded(lease, LeaseEnd.RELEASED),
        "returned": LeaseReturned(lease),
    }

    world.published.publish(events[kind])
    world.published.flush()

    assert world.asked == updated


def test_a_wanted_lease_is_announced_and_changes_no_object() -> None:
    world = World()

    world.published.publish(LeaseWanted(LEASE, "comfyui", 5))
    world.published.flush()

    assert world.bus.signals == [("LeaseWanted", ("aa11", "comfyui", 5))]
    assert world.asked == []


def test_a_lease_alone_changes_nothing_of_the_manager_but_the_count() -> None:
    world = World()
    world.published.publish(LeaseGranted(RESERVED))
    world.published.flush()
    assert ("PropertiesChanged", (MANAGER, {"LeaseCount": Variant("u", 7)}, [])) in world.bus.signals
    assert world.summaries == 1, "the one of export"

    world.published.publish(LeaseEnded(RESERVED, LeaseEnd.RELEASED))
    world.published.publish(SummaryChanged())
    world.published.flush()
    assert ("PropertiesChanged", (MANAGER, {"LeaseCount": Variant("u", 5)}, [])) in world.bus.signals
    assert world.summaries == 2
