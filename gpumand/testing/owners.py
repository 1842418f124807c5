"""An in-memory implementation of the OwnerPresence port."""

from __future__ import annotations


class FakeOwners:
    """An OwnerPresence in which every client is on the bus unless the test says otherwise.

    Attributes:
        gone: unique names that are not on the bus.
        watched: names for which ``watch`` was called, in order.
    """

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.watched: list[str] = []

    async def watch(self, bus_name: str) -> bool:
        """Record the name and return whether it is on the bus; see OwnerPresence."""
        self.watched.append(bus_name)
        return bus_name not in self.gone
