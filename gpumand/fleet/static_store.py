"""The store of a fleet without etcd: the configured hosts are asked directly at regular intervals.

There are no claims: two routers can load the same consumer on two hosts at the same time, and unique consumers cannot
be used. For two hosts of one household that is often enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from gpumand.fleet.changes import LocalEntries
from gpumand.fleet.clock import Clock
from gpumand.fleet.keys import Keys
from gpumand.fleet.peer_rows import PeerRows, PeerUnreachable
from gpumand.fleet.row_json import encode_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import Change, Claim, FleetStore, Listing, Membership, MembershipLost, StoreUnavailable

POLL_SEC = 1.0
"""Period of the questions: a change is known to all after this time."""

LOST_SEC = 3.0
"""A host that has not answered for this long is no longer in the table."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Peer:
    """The known state of one peer.

    Attributes:
        machine_id: machine id of its last row; "" = it has never answered, or is lost.
        order: order of that row.
        answered: when it answered last.
        reason: why it does not answer; "" while it does.
    """

    url: str
    machine_id: str = ""
    order: tuple[int, int] = (0, 0)
    answered: float = float("-inf")
    reason: str = ""


class StaticStore(FleetStore):
    """The hosts of a list; see ``FleetStore``. Create it inside a running event loop.

    Args:
        keys: keys of the fleet.
        peers: URL of the agent of each other host, by its name.
        rows: asks agents for their rows; it is closed with the store.
        clock: source of time.
    """

    def __init__(self, keys: Keys, peers: Mapping[str, str], rows: PeerRows, clock: Clock) -> None:
        self._keys = keys
        self._rows = rows
        self._clock = clock
        self._peers = {name: _Peer(url) for name, url in peers.items()}
        self._entries = LocalEntries()
        self._own = ""
        self._leased: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    # -- the host --

    async def join(self, row: HostRow) -> Membership:
        sent = self._clock.boottime()
        # Without a store that remembers the last epoch, the wall clock makes it higher than before a restart.
        epoch = max(row.epoch, self._clock.realtime_usec())
        self._own = self._keys.host(row.machine_id)
        revision = self._entries.write(self._own, encode_host(replace(row, epoch=epoch)))
        self._begin()
        return Membership(epoch, float("inf"), sent, revision)

    async def renew(self) -> None:
        self._require_joined()

    async def update(self, row: HostRow) -> int:
        self._require_joined()
        return self._entries.write(self._own, encode_host(row))

    async def leave(self) -> None:
        for key in (self._own, *self._leased):
            self._entries.remove(key)
        self._own = ""
        self._leased.clear()

    # -- keys, which only this host has --

    async def put(self, key: str, value: str, *, lasting: bool = False) -> int:
        if not lasting:
            self._require_joined()
            self._leased.add(key)
        return self._entries.write(key, value)

    async def remove(self, key: str) -> None:
        self._leased.discard(key)
        self._entries.remove(key)

    async def claim(self, key: str, value: str, ttl_sec: float | None = None, *, former: str = "") -> Claim:
        raise StoreUnavailable(f"{key} cannot be claimed: a fleet with static peers has no store. Set up etcd for it.")

    async def release(self, key: str, value: str) -> None:
        """Nothing can be claimed."""

    async def list(self, prefix: str) -> Listing:
        return self._entries.listing(prefix)

    def watch(self, prefix: str) -> AsyncIterator[Change]:
        self._begin()
        return self._entries.watch(prefix)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rows.close()

    def _require_joined(self) -> None:
        if not self._own:
            raise MembershipLost("this host has not joined the fleet")

    # -- polling --

    def _begin(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._poll_forever(name, one)) for name, one in self._peers.items()]

    async def _poll_forever(self, name: str, peer: _Peer) -> None:
        while True:
            began = self._clock.boottime()
            try:
                self._answered(name, peer, await self._rows.read(peer.url))
            except PeerUnreachable as error:
                self._silent(name, peer, str(error))
            await self._clock.sleep(began + POLL_SEC - self._clock.boottime())

    def _answered(self, name: str, peer: _Peer, row: HostRow) -> None:
        if self._is_of_another(peer, row):
            self._silent(name, peer, f"{peer.url} has the machine id of another host, {row.machine_id}")
            return
        # The answer comes from the agent itself, so a lower order is that of an agent whose clock was set back.
        if peer.machine_id != row.machine_id or row.order < peer.order:
            self._forget(peer)
        if peer.reason:
            log.info("fleet: %s answers", name)
        peer.machine_id, peer.order, peer.answered, peer.reason = row.machine_id, row.order, self._clock.boottime(), ""
        self._entries.write(self._keys.host(row.machine_id), encode_host(row))

    def _is_of_another(self, peer: _Peer, row: HostRow) -> bool:
        known = (one.machine_id for one in self._peers.values() if one is not peer)
        return self._keys.host(row.machine_id) == self._own or row.machine_id in known

    def _silent(self, name: str, peer: _Peer, reason: str) -> None:
        if peer.reason != reason:
            log.warning("fleet: %s does not answer: %s", name, reason)
            peer.reason = reason
        if self._clock.boottime() - peer.answered >= LOST_SEC:
            self._forget(peer)

    def _forget(self, peer: _Peer) -> None:
        if peer.machine_id:
            self._entries.remove(self._keys.host(peer.machine_id))
            peer.machine_id = ""
