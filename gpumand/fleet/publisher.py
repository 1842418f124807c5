"""Writes the row of this host to the store: on change, at most five times a second, and whole with every renewal."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from gpumand.fleet.clock import Clock
from gpumand.fleet.row_json import encode_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import FleetStore, StoreError, StoreUnavailable, UnknownOutcome

MIN_INTERVAL_SEC = 0.2
"""Least time between two rows of up to 4 KB. A larger row waits longer, so that a host writes at most 20 KB/s."""

SMALL_BYTES = 4096

RETRY_SEC = 1.0
"""Delay after a write that failed."""


log = logging.getLogger(__name__)


class RowPublisher:
    """Writes the newest row of a host; rows that were replaced before they could be written are never written.

    Args:
        store: the store.
        clock: source of time.
        row: the first row.

    Attributes:
        problem: why the row in the store is old; "" while it is not. Renewals can succeed all the same.
    """

    def __init__(self, store: FleetStore, clock: Clock, row: HostRow) -> None:
        self.problem = ""
        self._store = store
        self._clock = clock
        self._row = row
        self._changed = asyncio.Event()
        self._earliest = 0.0

    @property
    def row(self) -> HostRow:
        """The newest row, with the epoch and seq that it is or will be written with."""
        return self._row

    def offer(self, row: HostRow) -> None:
        """Publish a row soon, unless only its epoch and seq differ, which are assigned here."""
        same = replace(row, epoch=self._row.epoch, seq=self._row.seq)
        if same != self._row:
            self._row = replace(same, seq=self._row.seq + 1)
            self._changed.set()

    def refresh(self) -> None:
        """Write the row again soon although it did not change: readers then know that it is not old."""
        self._row = replace(self._row, seq=self._row.seq + 1)
        self._changed.set()

    def joined(self, epoch: int) -> None:
        """Use the epoch of a membership; the row that joined is written."""
        self._row = replace(self._row, epoch=epoch)

    async def run(self) -> None:
        """Write rows until cancelled. Raises MembershipLost and Denied; other failures are tried again."""
        while True:
            await self._changed.wait()
            await self._clock.sleep(self._earliest - self._clock.boottime())
            await self._write()

    async def _write(self) -> None:
        # What changes during the write is written next: the flag is cleared before the row is read.
        self._changed.clear()
        row = self._row
        self._earliest = self._clock.boottime() + interval_sec(row)
        try:
            await self._store.update(row)
        except (StoreUnavailable, UnknownOutcome) as error:
            self._failed(error)
            self._earliest = self._clock.boottime() + RETRY_SEC
            self._changed.set()
        else:
            if self.problem:
                log.info("the row of this host in the store is current again")
            self.problem = ""

    def _failed(self, error: StoreError) -> None:
        if not self.problem:
            log.warning("the row of this host in the store is old: %s", error)
        self.problem = str(error)


def interval_sec(row: HostRow) -> float:
    """Least time between this row and the next."""
    return MIN_INTERVAL_SEC * max(1.0, len(encode_host(row)) / SMALL_BYTES)
