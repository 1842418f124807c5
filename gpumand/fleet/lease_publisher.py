"""Publishes the leases of this host that are older than two seconds, for people and programs that read the store.

Shorter ones, such as those of chat requests, are only counted in the row: the store could not take hundreds a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from gpumand.fleet.keys import Keys
from gpumand.fleet.lease_rows import LeaseRow, encode_lease
from gpumand.fleet.store import FleetStore, StoreError

MIN_AGE_SEC = 2.0
MAX_PUBLISHED = 64
RETRY_SEC = 1.0

log = logging.getLogger(__name__)


class LeasePublisher:
    """Writes and removes the keys of leases. Create it inside a running event loop.

    Args:
        store: the store.
        keys: the keys of the fleet.
        machine_id: machine id of this host.
        via: the host whose router has placed a lease, by its id; "" for leases of other clients.
        now_usec: CLOCK_REALTIME in microseconds.
    """

    def __init__(
        self,
        store: FleetStore,
        keys: Keys,
        machine_id: str,
        via: Callable[[str], str] = lambda _: "",
        now_usec: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store, self._keys, self._machine_id = store, keys, machine_id
        self._via, self._now_usec = via, now_usec
        self._wanted: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._generation = 0

    def offer(self, status: Mapping[str, Any]) -> None:
        """Publish the leases of a status soon."""
        latest_usec = self._now_usec() - int(MIN_AGE_SEC * 1e6)
        leases = status.get("leases")
        found = [one for one in leases if isinstance(one, dict)] if isinstance(leases, list) else []
        old = [one for one in found if isinstance(usec := one.get("granted_usec"), int) and usec <= latest_usec]
        named = {str(one.get("id", "")): one for one in old[:MAX_PUBLISHED]}
        self._wanted = {name: encode_lease(_row(one, self._via(name))) for name, one in named.items()}
        if self._wanted != self._written:
            self._changed.set()

    def joined(self, generation: int) -> None:
        """The host is in the fleet. With another lease in the store than before, all keys are gone: write them again.

        With the same lease they are still there, and those of leases that have ended meanwhile must be removed.

        Args:
            generation: see ``Fence.generation``.
        """
        if generation != self._generation:
            self._generation = generation
            self._written.clear()
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._write()
            except (StoreError, ValueError) as error:
                log.debug("leases are not published: %s", error)
                await asyncio.sleep(RETRY_SEC)
                self._changed.set()

    async def _write(self) -> None:
        for lease in self._written.keys() - self._wanted.keys():
            await self._store.remove(self._keys.lease(self._machine_id, lease))
            self._written.pop(lease, None)
        for lease, value in tuple(self._wanted.items()):
            if self._written.get(lease) != value:
                await self._store.put(self._keys.lease(self._machine_id, lease), value)
                self._written[lease] = value


def _row(lease: Mapping[str, Any], via: str) -> LeaseRow:
    since = lease.get("granted_usec")
    return LeaseRow(
        str(lease.get("consumer", "")),
        str(lease.get("owner", "")),
        since if isinstance(since, int) else 0,
        str(lease.get("reason", "")),
        via,
    )
