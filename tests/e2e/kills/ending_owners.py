"""Owners of leases that end with the daemon: immediately before it, or while it is down."""

from __future__ import annotations

import random

from tests.e2e.kills.client_handle import ClientHandle
from tests.e2e.kills.deployment import Deployment

SOON_USEC = 400_000


class EndingOwner:
    """No owner at all; subclasses define how an owner takes its lease and which processes must be killed.

    Attributes:
        leases: the ids of its leases.
        dies_by_time: whether its lease expires by itself.
    """

    dies_by_time = False

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.leases: set[str] = set()

    def take(self) -> None:
        """Take the lease."""

    @property
    def pids(self) -> list[int]:
        """Processes that must be killed to end the owner."""
        return []

    def clean_up(self) -> None:
        """Remove all traces of the owner."""


class ClientOwner(EndingOwner):
    """A process with its own bus connection."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._handle = ClientHandle(deployment.host.machine)

    def take(self) -> None:
        self.leases.add(self._handle.acquire("voice", lifetime="connection"))

    @property
    def pids(self) -> list[int]:
        return [self._handle.pid]

    def clean_up(self) -> None:
        self._handle.end()


class UnitOwner(EndingOwner):
    """A unit that holds a lease while it runs."""

    def take(self) -> None:
        self.deployment.host.machine.systemctl("start", "ending-owner.service")
        leases = self.deployment.observer.status()["leases"]
        self.leases = {one["id"] for one in leases if one["owner"] == "ending-owner.service"}
        assert self.leases

    @property
    def pids(self) -> list[int]:
        return [self.deployment.host.machine.main_pid("ending-owner.service")]

    def clean_up(self) -> None:
        self.deployment.host.machine.systemctl("reset-failed", "ending-owner.service")


class ExpiringOwner(EndingOwner):
    """A lease that expires while the daemon is down, or shortly after."""

    dies_by_time = True

    def take(self) -> None:
        self.leases.add(self.deployment.keeper.acquire("voice", lifetime="ttl", ttl_usec=SOON_USEC))


KINDS: dict[type[EndingOwner], int] = {ClientOwner: 4, UnitOwner: 2, ExpiringOwner: 2, EndingOwner: 3}


def random_owner(deployment: Deployment, draw: random.Random) -> EndingOwner:
    """Return a random kind of owner, or no owner."""
    (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
    return kind(deployment)
