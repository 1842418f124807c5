"""An in-memory implementation of the OwnerPresence port."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.lease import Owner


class FakeOwners:
    """An OwnerPresence in which every client is on the bus unless the test says otherwise.

    Attributes:
        gone: unique names that are not on the bus.
        watched: names for which ``watch`` was called, in order.
        users: names of users by uid.
        programs: names of processes by pid.
    """

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.watched: list[str] = []
        self.users: dict[int, str] = {}
        self.programs: dict[int, str] = {}

    async def watch(self, bus_name: str) -> bool:
        """Record the name and return whether it is on the bus; see OwnerPresence."""
        self.watched.append(bus_name)
        return bus_name not in self.gone

    async def named(self, owner: Owner, since_usec: int) -> Owner:
        """Return the owner with the names that the test has set; see OwnerPresence."""
        return replace(owner, user=self.users.get(owner.uid, ""), program=self.programs.get(owner.pid, ""))
