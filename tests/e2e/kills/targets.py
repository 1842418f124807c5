"""Owners of leases that die with the daemon: a moment before it, or while nobody looks."""

from __future__ import annotations

import random

from tests.e2e.kills.handle import Handle
from tests.e2e.kills.scene import Scene

SOON_USEC = 400_000


class Mortal:
    """Nobody; each kind of owner says how it takes its lease and what has to be killed.

    Attributes:
        leases: what it has taken.
        dies_by_time: whether its lease just runs out.
    """

    dies_by_time = False

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.leases: set[str] = set()

    def take(self) -> None:
        """Take its lease."""

    @property
    def pids(self) -> list[int]:
        """What has to be killed."""
        return []

    def bury(self) -> None:
        """Leave nothing of it."""


class Client(Mortal):
    """A process with a connection of its own."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._handle = Handle(scene.host.machine)

    def take(self) -> None:
        self.leases.add(self._handle.acquire("voice", lifetime="connection"))

    @property
    def pids(self) -> list[int]:
        return [self._handle.pid]

    def bury(self) -> None:
        self._handle.end()


class Unit(Mortal):
    """A unit that holds a lease for as long as it runs."""

    def take(self) -> None:
        self.scene.host.machine.systemctl("start", "mortal.service")
        leases = self.scene.observer.status()["leases"]
        self.leases = {one["id"] for one in leases if one["owner"] == "mortal.service"}
        assert self.leases

    @property
    def pids(self) -> list[int]:
        return [self.scene.host.machine.main_pid("mortal.service")]

    def bury(self) -> None:
        self.scene.host.machine.systemctl("reset-failed", "mortal.service")


class Short(Mortal):
    """A lease whose time is over before anybody looks, or a moment later."""

    dies_by_time = True

    def take(self) -> None:
        self.leases.add(self.scene.keeper.acquire("voice", lifetime="ttl", ttl_usec=SOON_USEC))


KINDS: dict[type[Mortal], int] = {Client: 4, Unit: 2, Short: 2, Mortal: 3}


def drawn(scene: Scene, draw: random.Random) -> Mortal:
    """One of them, or nobody."""
    (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
    return kind(scene)
