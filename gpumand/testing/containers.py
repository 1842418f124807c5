"""An in-memory implementation of the Containers port, with failures on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from gpumand.domain.container import ContainerRef, ContainerState
from gpumand.ports import ContainerFailed


class FakeContainers:
    """Containers in memory.

    Attributes:
        states: the containers.
        failure: raised by every call, if set.
        answering: cleared to make every call hang.
        inspected: the names that were asked for.
        calls: ("start" or "stop", name) of all calls, in order.
        start_failure, stop_failure: raised instead of a start or stop, if set.
        lines: the output of every container.
        log_requests: (name, since, until) of all requests for output.
    """

    def __init__(self, states: Iterable[ContainerState] = ()) -> None:
        self.states = list(states)
        self.failure: ContainerFailed | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.inspected: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.start_failure: ContainerFailed | None = None
        self.stop_failure: ContainerFailed | None = None
        self.lines: tuple[str, ...] = ()
        self.log_requests: list[tuple[str, str, str]] = []

    async def inspect(self, name: str) -> ContainerState:
        """The container of a name; see Containers."""
        self.inspected.append(name)
        await self._answer()
        return self.states[self._index(name)]

    async def list(self) -> tuple[ContainerState, ...]:
        """All containers."""
        await self._answer()
        return tuple(self.states)

    async def start(self, name: str, timeout_sec: float) -> None:
        """Let a container run, at once."""
        await self._move(name, "start", self.start_failure, running=True)

    async def stop(self, name: str, timeout_sec: float) -> None:
        """End a container, at once."""
        await self._move(name, "stop", self.stop_failure, running=False)

    async def log_lines(self, name: str, since: str = "", until: str = "") -> tuple[str, ...]:
        """The lines that the test has set."""
        await self._answer()
        self._index(name)
        self.log_requests.append((name, since, until))
        return self.lines

    def become(self, name: str, **changes: object) -> None:
        """Change fields of the state of a container."""
        index = self._index(name)
        self.states[index] = replace(self.states[index], **changes)  # type: ignore[arg-type]  # fields by name

    async def _move(self, name: str, verb: str, failure: ContainerFailed | None, *, running: bool) -> None:
        self.calls.append((verb, name))
        await self._answer()
        self._index(name)
        if failure is not None:
            raise failure
        self.become(name, running=running, status="running" if running else "exited")

    async def _answer(self) -> None:
        await self.answering.wait()
        if self.failure is not None:
            raise self.failure

    def _index(self, name: str) -> int:
        ref = ContainerRef.parse(name)
        found = [index for index, one in enumerate(self.states) if ref.matches(one.engine, one.id, one.name)]
        if len(found) > 1:
            raise ContainerFailed(f"several engines have a container {name}", "ambiguous")
        if not found:
            raise ContainerFailed(f"there is no container {name}", "not-found")
        return found[0]
