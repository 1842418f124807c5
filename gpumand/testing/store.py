"""An in-memory implementation of the Store port, whose writes a test can make fail or wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease


class MemoryStore:
    """A Store that keeps its content in memory; pass the same object to the next arbiter to simulate a restart.

    As with files, a requested write is done in its turn even if the caller no longer waits for it.

    Attributes:
        leases: stored leases by id.
        consumers: name -> (pinned, last_used_usec).
        loads: consumer -> (devices, began_usec) of loads in progress.
        error: if set, every write raises it and changes nothing, for example
            ``OSError(errno.ENOSPC, "No space left on device")``.
        writes: all writes done, as ("put", id), ("drop", id), ("consumer", name), ("load", consumer) or
            ("loaded", consumer).
        closed: whether the store was closed.
    """

    def __init__(self, *leases: Lease) -> None:
        """Create the store with leases that a former daemon has left."""
        self.leases = {lease.id: lease for lease in leases}
        self.consumers: dict[str, tuple[bool | None, int]] = {}
        self.loads: dict[str, tuple[Devices, int]] = {}
        self.error: OSError | None = None
        self.writes: list[tuple[str, str]] = []
        self.closed = False
        self._pending: list[Callable[[], None]] = []
        self._is_stalled = False

    def stall(self) -> None:
        """Make all further writes wait until ``resume``."""
        self._is_stalled = True

    def resume(self) -> None:
        """Do the waiting writes in their order, and stop stalling."""
        self._is_stalled = False
        while self._pending:
            self._pending.pop(0)()

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

    async def _write(self, operation: str, key: str, change: Callable[[], object]) -> None:
        done = asyncio.get_running_loop().create_future()

        def write() -> None:
            if self.error is None:
                self.writes.append((operation, key))
                change()
            if not done.done():
                done.set_result(self.error)

        await self._when_due(write, done)

    async def _turn(self) -> None:
        """Wait for all earlier writes."""
        done = asyncio.get_running_loop().create_future()
        await self._when_due(lambda: None if done.done() else done.set_result(None), done)

    async def _when_due(self, act: Callable[[], None], done: asyncio.Future[OSError | None]) -> None:
        self._pending.append(act)
        if not self._is_stalled:
            self.resume()
        error = await done
        await asyncio.sleep(0)  # lets other tasks run, as during a real write
        if error is not None:
            raise error
