"""A fake of the Containers port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gpumand.domain.container import ContainerRef, ContainerState
from gpumand.ports import ContainerFailed


class FakeContainers:
    """Containers in memory.

    Attributes:
        states: the containers.
        failure: raised by every call, if set.
        answering: cleared to make every call hang.
        inspected: the names that were asked for.
    """

    def __init__(self, states: Iterable[ContainerState] = ()) -> None:
        self.states = list(states)
        self.failure: ContainerFailed | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.inspected: list[str] = []

    async def inspect(self, name: str) -> ContainerState:
        """The container of a name; see Containers."""
        self.inspected.append(name)
        await self._answer()
        ref = ContainerRef.parse(name)
        found = [one for one in self.states if ref.matches(one.engine, one.id, one.name)]
        if len(found) > 1:
            raise ContainerFailed(f"several engines have a container {name}", "ambiguous")
        if not found:
            raise ContainerFailed(f"there is no container {name}", "not-found")
        return found[0]

    async def list(self) -> tuple[ContainerState, ...]:
        """All containers; see Containers."""
        await self._answer()
        return tuple(self.states)

    async def start(self, name: str, timeout_sec: float) -> None:
        """Not provided: attribution only reads."""
        raise NotImplementedError

    async def stop(self, name: str, timeout_sec: float) -> None:
        """Not provided: attribution only reads."""
        raise NotImplementedError

    async def _answer(self) -> None:
        await self.answering.wait()
        if self.failure is not None:
            raise self.failure
