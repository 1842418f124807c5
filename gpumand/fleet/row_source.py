"""Keeps the row of this host current: reads gpumand's status on change, at most five times a second, and regularly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gpumand.domain.errors import GpumandError
from gpumand.fleet.row_builder import HostFacts, host_row
from gpumand.fleet.rows import HostRow

MIN_INTERVAL_SEC = 0.2
PERIOD_SEC = 5.0
"""Time between two readings while nothing is announced: free memory changes without a signal."""

LEARNED_SEC = 30.0
"""Least time between two readings of learned times, which need the properties of all consumers."""

AGAIN_SEC = 1.0
"""Least time between two readings that requests cause."""

RAM_STEP_MIB = 256
MEMINFO = Path("/proc/meminfo")

log = logging.getLogger(__name__)


class StatusSource(Protocol):
    """The source of the values in a row."""

    async def status(self) -> dict[str, Any]:
        """The answer of GetStatus as plain values. Raises GpumandError."""

    async def learned(self) -> dict[str, dict[str, Any]]:
        """The property ``Learned`` of each consumer. Raises GpumandError."""

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call back whenever the status may have changed, until cancelled."""


class RowSource:
    """Builds the row. Create it inside a running event loop.

    Args:
        source: the local gpumand.
        facts: this host.
        publish: called with every row and the status that it is made of.

    Attributes:
        is_draining: the host takes no new requests from other hosts; ``note_change`` publishes it.
        absence: why gpumand cannot be reached; "" while it can.
    """

    def __init__(
        self, source: StatusSource, facts: HostFacts, publish: Callable[[HostRow, Mapping[str, Any]], None]
    ) -> None:
        self.is_draining = False
        self.absence = ""
        self._source, self._facts, self._publish = source, facts, publish
        self._changed = asyncio.Event()
        self._learned: dict[str, dict[str, Any]] = {}
        self._learned_at = self._again_at = float("-inf")
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    def note_change(self) -> None:
        """Something has changed that the row contains."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the row current until cancelled."""
        watching = asyncio.ensure_future(self._source.watch(self.note_change))
        try:
            while True:
                self._changed.clear()
                await self.read()
                await asyncio.sleep(MIN_INTERVAL_SEC)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD_SEC - MIN_INTERVAL_SEC):
                        await self._changed.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def read(self) -> None:
        """Read the status now and publish the row; without gpumand it has no consumers, so it gets no requests."""
        async with self._reading:  # of two readings at the same time, the older one could be published last
            await self._read()

    async def read_again(self) -> None:
        """Wait for a reading that begins after this call. Any host of the fleet can cause one, so calls share it."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._read_next())
        await asyncio.shield(self._next)

    async def _read_next(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, self._again_at + AGAIN_SEC - clock()))
        # Later calls need another reading: this one may lack what they ask for. They never go without one, since a
        # consumer that is not in the row could be a unique one.
        self._next, self._again_at = None, clock()
        await self.read()

    async def _read(self) -> None:
        try:
            await self._read_learned()
            status = await self._source.status()
        except GpumandError as error:
            if not self.absence:
                log.warning("gpumand cannot be reached, so this host serves no requests: %s", error.message)
            self.absence, status = error.message, {}
        else:
            self.absence = ""
        draining = self.is_draining
        self._publish(host_row(self._facts, status, self._learned, draining=draining, ram_mib=_ram_mib()), status)

    async def _read_learned(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._learned_at >= LEARNED_SEC:
            self._learned = await self._source.learned()
            self._learned_at = now


def _ram_mib() -> int | None:
    """Available RAM in steps, so that the row does not change all the time; None = unknown. Reads a file of procfs."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024 // RAM_STEP_MIB * RAM_STEP_MIB
    return None
