"""The store of a fleet in etcd, through its JSON gateway."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from gpumand.fleet import etcd_kv
from gpumand.fleet.clock import Clock
from gpumand.fleet.etcd_client import EtcdClient, Json
from gpumand.fleet.etcd_errors import FAILED_PRECONDITION, NOT_FOUND, EtcdError, as_store_error
from gpumand.fleet.etcd_kv import NO_LEASE, KeyValue
from gpumand.fleet.etcd_list import list_entries
from gpumand.fleet.etcd_watch import EtcdWatch
from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import Keys
from gpumand.fleet.row_json import encode_host, parse_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import (
    Change,
    Claim,
    Entry,
    FleetStore,
    Listing,
    Membership,
    MembershipLost,
    StoreError,
    StoreUnavailable,
    refuse_other_host,
)

MAX_ROUNDS = 8
"""Number of times that a write is repeated because another writer was faster."""


class EtcdStore(FleetStore):
    """One host's access to etcd; see ``FleetStore``.

    Ids of leases are chosen here, so a request for a lease whose answer was lost can be repeated.

    Args:
        client: the client.
        keys: keys of the fleet.
        clock: clock that counts time spent suspended.
        ttl_sec: time to live of the host's lease.
    """

    def __init__(self, client: EtcdClient, keys: Keys, clock: Clock, ttl_sec: float = 10.0) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock
        self._ttl_sec = ttl_sec
        self._lease = NO_LEASE
        self._row: KeyValue | None = None

    # -- the host --

    async def join(self, row: HostRow) -> Membership:
        with suppress(StoreError):
            await self._revoke(self._lease)
        self._lease = NO_LEASE
        sent = self._clock.boottime()
        lease, ttl_sec, revision = await self._grant(self._ttl_sec, "a lease for this host")
        # The revision rises with every write, so it is above the epochs of rows that are gone already.
        epoch, written = await self._write_first(replace(row, epoch=max(row.epoch, revision)), lease)
        self._lease, self._row = lease, written
        return Membership(epoch, ttl_sec, sent, written.entry.revision)

    async def _write_first(self, row: HostRow, lease: int) -> tuple[int, KeyValue]:
        """Write the row with an epoch above that of the stored row."""
        key, epoch = self._keys.host(row.machine_id), row.epoch
        found: KeyValue | None = None
        for _ in range(MAX_ROUNDS):
            written, other = await self._replace(key, encode_host(replace(row, epoch=epoch)), lease, found)
            if written is not None:
                return epoch, written
            if other is not None and other.lease == lease:
                return epoch, other  # an attempt whose answer was lost
            stored = _row(other)
            if stored is not None:
                refuse_other_host(stored, row)
            found, epoch = other, max(row.epoch, _order(other)[0] + 1)
        raise StoreUnavailable(f"another agent writes {key} all the time. Is the machine id of this host unique?")

    async def renew(self) -> None:
        if self._lease == NO_LEASE:
            raise _lost()
        answer = await self._call("lease/keepalive", {"ID": str(self._lease)}, "a renewal of the lease")
        if etcd_kv.number(etcd_kv.fields(answer, "result"), "TTL") <= 0:
            self._lease = NO_LEASE
            raise _lost()

    async def update(self, row: HostRow) -> int:
        if self._lease == NO_LEASE or self._row is None:
            raise _lost()
        key, lease, found = self._keys.host(row.machine_id), self._lease, self._row
        for _ in range(MAX_ROUNDS):
            written, other = await self._replace(key, encode_host(row), lease, found)
            if written is not None:
                self._row = written
                return written.entry.revision
            if other is None:
                raise _lost()
            if _order(other) >= row.order:
                self._row = other
                return other.entry.revision
            found = other
        raise StoreUnavailable(f"another agent writes {key} all the time. Is the machine id of this host unique?")

    async def leave(self) -> None:
        lease, self._lease, self._row = self._lease, NO_LEASE, None
        try:
            await self._revoke(lease)
        except StoreError:
            self._lease = lease  # so that it can be tried again
            raise

    # -- keys --

    async def put(self, key: str, value: str, *, lasting: bool = False) -> int:
        if not lasting and self._lease == NO_LEASE:
            raise _lost()
        body = etcd_kv.put(key, value, NO_LEASE if lasting else self._lease)
        return etcd_kv.revision_of(await self._call("kv/put", body, f"a write of {key}"))

    async def remove(self, key: str) -> None:
        await self._call("kv/deleterange", {"key": etcd_kv.encode(key)}, f"the removal of {key}")

    async def claim(self, key: str, value: str, ttl_sec: float | None = None, *, former: str = "") -> Claim:
        if ttl_sec is None:
            if self._lease == NO_LEASE:
                raise _lost()
            return await self._claim(key, value, self._lease, former)
        lease, _, _ = await self._grant(ttl_sec, f"a lease for {key}")
        try:
            return await self._claim(key, value, lease, former)
        except MembershipLost:  # not that of this host: the claim took longer than its own time to live
            raise StoreUnavailable(f"etcd took too long to claim {key}") from None

    async def _claim(self, key: str, value: str, lease: int, former: str) -> Claim:
        found: KeyValue | None = None
        for _ in range(MAX_ROUNDS):
            written, other = await self._replace(key, value, lease, found)
            if written is not None:
                return Claim(True, written.created, value)
            if other is not None and other.entry.value not in (value, former or value):
                return Claim(False, other.created, other.entry.value)
            if other is not None and other.entry.value == value and other.lease == lease:
                return Claim(True, other.created, value)
            found = other  # the former claim; or claimed before, with a lease that ends earlier; or removed right now
        raise StoreUnavailable(f"{key} changes all the time")

    async def release(self, key: str, value: str) -> None:
        delete = {"request_delete_range": {"key": etcd_kv.encode(key)}}
        body = etcd_kv.transaction(etcd_kv.if_value(key, value), delete, key)
        await self._call("kv/txn", body, f"the release of {key}")

    async def list(self, prefix: str) -> Listing:
        return await list_entries(self._client, prefix)

    def watch(self, prefix: str) -> AsyncIterator[Change]:
        return EtcdWatch(self._client, prefix).changes()

    async def close(self) -> None:
        await self._client.close()

    # -- requests --

    async def _grant(self, ttl_sec: float, what: str) -> tuple[int, float, int]:
        """Create a lease; return its id, its time to live in seconds, which etcd may have raised, and the revision."""
        lease = secrets.randbelow(2**62) + 1
        body = {"ID": str(lease), "TTL": str(math.ceil(ttl_sec))}
        try:
            answer = await self._client.call("lease/grant", body, what, writes=True)
        except EtcdError as error:
            if error.code == FAILED_PRECONDITION and "already exists" in error.message:
                return lease, ttl_sec, await self._revision()  # an attempt whose answer was lost
            raise as_store_error(error, what) from None
        return lease, float(etcd_kv.number(answer, "TTL") or ttl_sec), etcd_kv.revision_of(answer)

    async def _revision(self) -> int:
        return (await list_entries(self._client, self._keys.hosts)).revision

    async def _revoke(self, lease: int) -> None:
        """End a lease with its keys; no change if it has ended."""
        if lease != NO_LEASE:
            with suppress(MembershipLost):
                await self._call("lease/revoke", {"ID": str(lease)}, "the end of the lease")

    async def _replace(
        self, key: str, value: str, lease: int, expected: KeyValue | None
    ) -> tuple[KeyValue | None, KeyValue | None]:
        """Write a key if it still is as expected; return what was written, or else what was found instead."""
        condition = etcd_kv.if_revision(key, expected.entry.revision if expected else 0)
        write = {"request_put": etcd_kv.put(key, value, lease)}
        answer = await self._call("kv/txn", etcd_kv.transaction(condition, write, key), f"a write of {key}")
        succeeded, found = etcd_kv.transaction_result(answer)
        if not succeeded:
            return None, found
        revision = etcd_kv.revision_of(answer)
        return KeyValue(Entry(key, value, revision), expected.created if expected else revision, lease), None

    async def _call(self, path: str, body: Json, what: str) -> Json:
        """Call a method that writes. Raises StoreError; MembershipLost where a lease does not exist."""
        try:
            return await self._client.call(path, body, what, writes=True)
        except EtcdError as error:
            raise _lost() if error.code == NOT_FOUND else as_store_error(error, what) from None


def _row(found: KeyValue | None) -> HostRow | None:
    """A stored row; None where there is none that can be read."""
    try:
        return parse_host(found.entry.value) if found else None
    except InvalidJson:
        return None


def _order(found: KeyValue | None) -> tuple[int, int]:
    """The order of a stored row; (0, 0) where there is none that can be read."""
    row = _row(found)
    return row.order if row else (0, 0)


def _lost() -> MembershipLost:
    return MembershipLost("this host has no lease in etcd: it has not joined, or was cut off for too long")
