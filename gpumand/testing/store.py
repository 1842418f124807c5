"""A Store in memory, whose disk a test can fill up or stall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease


class MemoryStore:
    """Keeps what it is told for as long as it is there itself: give the same one to the next daemon of a test.

    As with files, a write that was asked for is done, in its turn, even if nobody waits for it any more.

    Attributes:
        leases: what is kept, by id.
        consumers: name -> (pinned, last_used_usec).
        loads: consumer -> (devices, began_usec), of loads under way.
        error: raised by every write while it is set (``OSError(errno.ENOSPC, "No space left on device")``), which
            then changes nothing.
        writes: every write that was done, as ("put", id), ("drop", id), ("consumer", name), ("load", consumer) or
            ("loaded", consumer).
        closed: whether it was closed.
    """

    def __init__(self, *leases: Lease) -> None:
        """Begin with these leases, as another daemon left them."""
        self.leases = {lease.id: lease for lease in leases}
        self.consumers: dict[str, tuple[bool | None, int]] = {}
        self.loads: dict[str, tuple[Devices, int]] = {}
        self.error: OSError | None = None
        self.writes: list[tuple[str, str]] = []
        self.closed = False
        self._asked: list[Callable[[], None]] = []
        self._is_stalled = False

    def stall(self) -> None:
        """Let writes wait from now on."""
        self._is_stalled = True

    def resume(self) -> None:
        """Do the writes that wait, in their order."""
        self._is_stalled = False
        while self._asked:
            self._asked.pop(0)()

    async def put_lease(self, lease: Lease) -> None:
        """See Store."""
        await self._write("put", lease.id, lambda: self.leases.update({lease.id: lease}))

    async def drop_lease(self, lease_id: str) -> None:
        """See Store."""
        await self._write("drop", lease_id, lambda: self.leases.pop(lease_id, None))

    async def put_consumer(self, name: str, pinned: bool | None, last_used_usec: int) -> None:
        """See Store."""
        await self._write("consumer", name, lambda: self.consumers.update({name: (pinned, last_used_usec)}))

    async def put_load(self, consumer: str, devices: Devices, began_usec: int) -> None:
        """See Store."""
        await self._write("load", consumer, lambda: self.loads.update({consumer: (devices, began_usec)}))

    async def drop_load(self, consumer: str) -> None:
        """See Store."""
        await self._write("loaded", consumer, lambda: self.loads.pop(consumer, None))

    async def read_loads(self) -> dict[str, tuple[Devices, int]]:
        """See Store."""
        await self._turn()
        return dict(self.loads)

    async def read_leases(self) -> tuple[Lease, ...]:
        """See Store."""
        await self._turn()
        return tuple(sorted(self.leases.values(), key=lambda lease: (lease.granted_usec, lease.id)))

    async def read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        """See Store."""
        await self._turn()
        return dict(self.consumers)

    async def close(self) -> None:
        """See Store."""
        await self._turn()
        self.closed = True

    async def _write(self, what: str, which: str, change: Callable[[], object]) -> None:
        done = asyncio.get_running_loop().create_future()

        def write() -> None:
            if self.error is None:
                self.writes.append((what, which))
                change()
            if not done.done():
                done.set_result(self.error)

        await self._when_due(write, done)

    async def _turn(self) -> None:
        """Wait for every write that was asked for before."""
        done = asyncio.get_running_loop().create_future()
        await self._when_due(lambda: None if done.done() else done.set_result(None), done)

    async def _when_due(self, act: Callable[[], None], done: asyncio.Future[OSError | None]) -> None:
        self._asked.append(act)
        if not self._is_stalled:
            self.resume()
        error = await done
        await asyncio.sleep(0)  # no real disk answers before others had their turn
        if error is not None:
            raise error
