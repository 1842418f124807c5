"""A store of a fleet in memory, on a clock that the test controls, with links that the test can cut.

``MemoryFleet`` is the store itself; ``MemoryStore`` is the access of one host, through its ``Link``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from gpumand.fleet.clock import Clock
from gpumand.fleet.keys import Keys
from gpumand.fleet.row_json import encode_host, parse_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import (
    Change,
    Claim,
    Denied,
    Entry,
    FleetStore,
    Interrupted,
    Listing,
    Membership,
    MembershipLost,
    Removed,
    StoreUnavailable,
    UnknownOutcome,
    Written,
    refuse_other_host,
)


@dataclass(slots=True)
class _Lease:
    ttl_sec: float
    ends: float


class Link:
    """The connection of one host to the store. Subclasses inject delays and lost answers.

    Attributes:
        is_cut: no request arrives, and no answer; see ``MemoryStore.cut_off``.
        denied: the store refuses every operation.
        calls: names of all operations so far, in order.
    """

    def __init__(self) -> None:
        self.is_cut = False
        self.denied = False
        self.calls: list[str] = []

    async def request(self, operation: str) -> None:
        """Called before the store carries out an operation; what it raises prevents the operation."""
        self.calls.append(operation)
        await asyncio.sleep(0)
        if self.is_cut:
            raise StoreUnavailable("the store does not answer: the link is cut")
        if self.denied:
            raise Denied(f"permission denied: {operation}")

    async def answer(self, operation: str) -> None:
        """Called after the store carried out an operation; what it raises hides the result."""
        await asyncio.sleep(0)
        if self.is_cut:
            raise UnknownOutcome(f"the answer to {operation} was lost: the link is cut")


class MemoryFleet:
    """The store of a fleet, shared by all its hosts.

    Args:
        clock: clock of the store; leases end by its ``boottime``.
        name: name of the fleet.
        ttl_sec: time to live of a host's lease.
    """

    def __init__(self, clock: Clock, name: str = "lab", ttl_sec: float = 10.0) -> None:
        self.clock = clock
        self.keys = Keys(name)
        self.ttl_sec = ttl_sec
        self.revision = 1
        self._entries: dict[str, tuple[Entry, int]] = {}
        self._created: dict[str, int] = {}
        self._leases: dict[int, _Lease] = {}
        self._stores: list[MemoryStore] = []
        self._timers: set[asyncio.Task[None]] = set()

    def store(self, link: Link | None = None, clock: Clock | None = None) -> MemoryStore:
        """Return the access of one more host.

        Args:
            link: its connection; None = one that works.
            clock: the host's own clock; None = that of the store.
        """
        return MemoryStore(self, link or Link(), clock or self.clock)

    def attach(self, store: MemoryStore) -> None:
        """Report changes to a store from now on."""
        self._stores.append(store)

    def value(self, key: str) -> str | None:
        """The value of a key; None where it does not exist."""
        self._expire()
        found = self._entries.get(key)
        return found[0].value if found else None

    def close(self) -> None:
        """Stop the timers of all leases."""
        for timer in self._timers:
            timer.cancel()

    # -- what the server does, always between two awaits --

    def grant(self, ttl_sec: float) -> int:
        self._expire()
        lease = max(self._leases, default=0) + self.revision + 1
        self._leases[lease] = _Lease(ttl_sec, self.clock.boottime() + ttl_sec)
        timer = asyncio.create_task(self._end_in_time(lease))
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)
        return lease

    def extend(self, lease: int) -> bool:
        self._expire()
        if lease not in self._leases:
            return False
        self._leases[lease].ends = self.clock.boottime() + self._leases[lease].ttl_sec
        return True

    def revoke(self, lease: int) -> None:
        self._leases.pop(lease, None)
        for key in [key for key, (_, holder) in self._entries.items() if holder == lease]:
            self.delete(key)

    def read(self, key: str) -> tuple[Entry, int] | None:
        self._expire()
        return self._entries.get(key)

    def write(self, key: str, value: str, lease: int) -> int:
        """Write a key; 0 as lease = without one. Raises MembershipLost."""
        self._expire()
        if lease and lease not in self._leases:
            raise MembershipLost("the lease of this host has ended")
        self.revision += 1
        entry = Entry(key, value, self.revision)
        self._entries[key] = entry, lease
        self._created.setdefault(key, self.revision)
        self._publish(Written(entry))
        return self.revision

    def created(self, key: str) -> int:
        """The revision that created a key."""
        return self._created[key]

    def rebind(self, key: str, lease: int) -> None:
        """Let a key end with another lease: the earlier one may be that of an agent that was killed."""
        if lease not in self._leases:
            _lost()
        self._entries[key] = self._entries[key][0], lease

    def delete(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            self.revision += 1
            self._created.pop(key, None)
            self._publish(Removed(key, self.revision))

    def listing(self, prefix: str) -> Listing:
        self._expire()
        found = (entry for entry, _ in self._entries.values() if entry.key.startswith(prefix))
        return Listing(tuple(sorted(found, key=lambda one: one.key)), self.revision)

    def _publish(self, change: Written | Removed) -> None:
        for store in self._stores:
            store.deliver(change)

    def _expire(self) -> None:
        now = self.clock.boottime()
        for lease in [one for one, state in self._leases.items() if state.ends <= now]:
            self.revoke(lease)

    async def _end_in_time(self, lease: int) -> None:
        while (state := self._leases.get(lease)) is not None:
            await self.clock.sleep(state.ends - self.clock.boottime())
            self._expire()


class MemoryStore(FleetStore):
    """The access of one host to a ``MemoryFleet``; see ``FleetStore``."""

    def __init__(self, fleet: MemoryFleet, link: Link, clock: Clock) -> None:
        self.fleet = fleet
        self.link = link
        self._clock = clock
        self._lease = 0
        self._watches: list[tuple[str, asyncio.Queue[Change]]] = []
        fleet.attach(self)

    # -- the link --

    def cut_off(self) -> None:
        """Cut the link: requests and answers are lost, and watches are interrupted."""
        self.link.is_cut = True
        for _, changes in self._watches:
            changes.put_nowait(Interrupted("the store does not answer: the link is cut"))

    def heal(self) -> None:
        """Restore the link; watches report a listing."""
        self.link.is_cut = False
        for prefix, changes in self._watches:
            changes.put_nowait(self.fleet.listing(prefix))

    def deliver(self, change: Written | Removed) -> None:
        """Report a change to the watches, unless the link is cut."""
        key = change.entry.key if isinstance(change, Written) else change.key
        for prefix, changes in self._watches if not self.link.is_cut else ():
            if key.startswith(prefix):
                changes.put_nowait(change)

    # -- the port --

    async def join(self, row: HostRow) -> Membership:
        sent = self._clock.boottime()
        await self.link.request("join")
        if self._lease:
            self.fleet.revoke(self._lease)
        key = self.fleet.keys.host(row.machine_id)
        if found := self.fleet.read(key):
            refuse_other_host(parse_host(found[0].value), row)
        epoch = max(row.epoch, self._stored_epoch(key) + 1, self.fleet.revision)
        self._lease = self.fleet.grant(self.fleet.ttl_sec)
        revision = self._write_row(key, row, epoch)
        await self.link.answer("join")
        return Membership(epoch, self.fleet.ttl_sec, sent, revision)

    def _stored_epoch(self, key: str) -> int:
        found = self.fleet.read(key)
        return parse_host(found[0].value).epoch if found else 0

    def _write_row(self, key: str, row: HostRow, epoch: int) -> int:
        return self.fleet.write(key, encode_host(replace(row, epoch=epoch)), self._lease)

    async def renew(self) -> None:
        await self.link.request("renew")
        if not self._lease or not self.fleet.extend(self._lease):
            raise MembershipLost("the lease of this host has ended")
        await self.link.answer("renew")

    async def update(self, row: HostRow) -> int:
        await self.link.request("update")
        key = self.fleet.keys.host(row.machine_id)
        found = self.fleet.read(key)
        if found and parse_host(found[0].value).order >= row.order:
            revision = found[0].revision
        else:
            revision = self._write_row(key, row, row.epoch) if self._lease else _lost()
        await self.link.answer("update")
        return revision

    async def leave(self) -> None:
        await self.link.request("leave")
        self.fleet.revoke(self._lease)
        self._lease = 0
        await self.link.answer("leave")

    async def put(self, key: str, value: str, *, lasting: bool = False) -> int:
        await self.link.request("put")
        lease = 0 if lasting else self._lease or _lost()
        revision = self.fleet.write(key, value, lease)
        await self.link.answer("put")
        return revision

    async def remove(self, key: str) -> None:
        await self.link.request("remove")
        self.fleet.delete(key)
        await self.link.answer("remove")

    async def claim(self, key: str, value: str, ttl_sec: float | None = None, *, former: str = "") -> Claim:
        await self.link.request("claim")
        found = self.fleet.read(key)
        if found is None or (former and found[0].value == former):
            lease = self.fleet.grant(ttl_sec) if ttl_sec is not None else self._lease or _lost()
            result = Claim(True, self.fleet.write(key, value, lease), value)
        else:
            entry, lease = found
            result = Claim(entry.value == value, self.fleet.created(key), entry.value)
            if result.ok and ttl_sec is not None:
                self.fleet.extend(lease)
                self.fleet.write(key, value, lease)  # etcd binds the key to another lease, which writes it again
            elif result.ok:
                self.fleet.rebind(key, self._lease or _lost())
        await self.link.answer("claim")
        return result

    async def release(self, key: str, value: str) -> None:
        await self.link.request("release")
        if self.fleet.value(key) == value:
            self.fleet.delete(key)
        await self.link.answer("release")

    async def list(self, prefix: str) -> Listing:
        await self.link.request("list")
        found = self.fleet.listing(prefix)
        try:
            await self.link.answer("list")
        except UnknownOutcome as error:  # a read has no outcome that could be unknown
            raise StoreUnavailable(str(error)) from None
        return found

    async def watch(self, prefix: str) -> AsyncIterator[Change]:
        if self.link.denied:
            raise Denied(f"permission denied: watch {prefix}")
        changes: asyncio.Queue[Change] = asyncio.Queue()
        watch = (prefix, changes)
        self._watches.append(watch)
        changes.put_nowait(
            Interrupted("the store does not answer: the link is cut")
            if self.link.is_cut
            else self.fleet.listing(prefix)
        )
        try:
            while True:
                yield await changes.get()
        finally:
            self._watches.remove(watch)

    async def close(self) -> None:
        self.link.is_cut = True


def _lost() -> int:
    raise MembershipLost("this host has not joined the fleet")
