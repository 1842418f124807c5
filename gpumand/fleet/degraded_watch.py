"""Keeps the rows of hosts fresh while etcd is gone: the agents that were known last are asked directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, suppress

from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import Keys, last_part
from gpumand.fleet.peer_rows import PeerRows, PeerUnreachable
from gpumand.fleet.row_json import encode_host, parse_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import Change, Entry, Interrupted, Listing, Removed, Written
from gpumand.fleet.table import MAX_HOSTS

POLL_SEC = 2.0


class DegradedWatch:
    """Passes a watch on, and adds rows of the known hosts from an ``Interrupted`` until the next ``Listing``.

    Args:
        keys: keys of the fleet.
        peers: asks agents for their rows.
        configured: URLs of agents that are asked too, so that a host that starts without etcd finds the others.
    """

    def __init__(self, keys: Keys, peers: PeerRows, configured: Iterable[str] = ()) -> None:
        self._keys = keys
        self._peers = peers
        self._configured = tuple(configured)
        self._hosts: dict[str, HostRow] = {}
        self._revision = 0

    async def changes(self, watch: AsyncGenerator[Change, None]) -> AsyncIterator[Change]:
        """Report the changes of a watch and the added ones."""
        is_interrupted = False
        async with aclosing(watch):
            waiting = asyncio.ensure_future(anext(watch))
            try:
                while True:
                    done, _ = await asyncio.wait([waiting], timeout=POLL_SEC if is_interrupted else None)
                    if not done:
                        for fresh in await self._polled():
                            yield fresh
                        continue
                    change = waiting.result()
                    waiting = asyncio.ensure_future(anext(watch))
                    self._note(change)
                    is_interrupted = isinstance(change, Interrupted)
                    yield change
            finally:
                waiting.cancel()
                await asyncio.wait([waiting])

    def _note(self, change: Change) -> None:
        if isinstance(change, Listing):
            self._hosts = {}
            self._revision = change.revision
            for entry in change.entries:
                self._note_entry(entry)
        elif isinstance(change, Written):
            self._note_entry(change.entry)
        elif isinstance(change, Removed):
            self._hosts.pop(last_part(change.key, self._keys.hosts), None)

    def _note_entry(self, entry: Entry) -> None:
        self._revision = max(self._revision, entry.revision)
        if machine_id := last_part(entry.key, self._keys.hosts):
            with suppress(InvalidJson):  # the reader of the watch reports it
                row = parse_host(entry.value)
                has_room = machine_id in self._hosts or len(self._hosts) < MAX_HOSTS
                if row.machine_id == machine_id and has_room:
                    self._hosts[machine_id] = row

    async def _polled(self) -> list[Written]:
        """The rows of the hosts that answer and have a newer row, with the revision that was known last."""
        known = {one.url for one in self._hosts.values()}
        unknown = [url for url in self._configured if url not in known]
        asked = *(self._row_of(machine_id) for machine_id in self._hosts), *map(self._unknown_row, unknown)
        rows = await asyncio.gather(*asked)
        return [Written(self._entry(row)) for row in rows if row is not None]

    def _entry(self, row: HostRow) -> Entry:
        return Entry(self._keys.host(row.machine_id), encode_host(row), self._revision)

    async def _unknown_row(self, url: str) -> HostRow | None:
        """The row of an agent that is in the configuration, and of no host that was in etcd."""
        try:
            row = await self._peers.read(url)
        except PeerUnreachable:
            return None
        # The host of a known row is asked at its own URL, whose answer counts: copies of a host have the same id.
        if row.machine_id in self._hosts:
            return None
        self._hosts[row.machine_id] = row
        return row

    async def _row_of(self, machine_id: str) -> HostRow | None:
        known = self._hosts[machine_id]
        try:
            row = await self._peers.read(known.url)
        except PeerUnreachable:
            return None  # routers notice by themselves, by their connections
        if row.machine_id != machine_id or row.order <= known.order:
            return None
        self._hosts[machine_id] = row
        return row
