"""Owners in memory: who is on the bus is what a test says."""

from __future__ import annotations


class FakeOwners:
    """See the port ``Owners``.

    Attributes:
        present: unique names that are on the bus; every name is until it leaves.
        watched: names that were asked to be watched, in order.
    """

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.watched: list[str] = []

    async def watch(self, bus_name: str) -> bool:
        """See Owners."""
        self.watched.append(bus_name)
        return bus_name not in self.gone
