"""The active leases, indexed by id, by consumer, by user and by idempotency token; part of the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from gpumand.domain.errors import NoSuchLease
from gpumand.domain.lease import Lease, LeaseLifetime, Owner, TokenKey, token_key


class LeaseTable:
    """Keeps the indexes of active leases consistent. The ledger is its only user.

    Attributes:
        by_id: all active leases by id.
        by_consumer: active leases of each consumer that has any, without those that are given back at the moment. Every
            change replaces the mapping, so that views can share it.
        special: the exclusive leases and those of lifetime ``unit``, by id. Hardly any lease is, so that counting lease
            slots needs no look at the others.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Lease] = {}
        self.by_id: Mapping[str, Lease] = self._by_id
        self.by_consumer: Mapping[str, tuple[Lease, ...]] = {}
        self.special: dict[str, Lease] = {}
        self._tokens: dict[TokenKey, str] = {}
        self._count_by_uid: dict[int, int] = {}

    def count_of(self, uid: int) -> int:
        """Number of active leases of a user."""
        return self._count_by_uid.get(uid, 0)

    def require(self, lease_id: str) -> Lease:
        """One lease. Raises NoSuchLease."""
        if lease_id not in self._by_id:
            raise NoSuchLease("no active lease has this id")
        return self._by_id[lease_id]

    def by_token(self, owner: Owner, lifetime: LeaseLifetime, token: str) -> Lease | None:
        """The active lease that an earlier request with the same token and owner received, or None."""
        lease_id = self._tokens.get(token_key(owner, lifetime, token)) if token else None
        return self._by_id.get(lease_id) if lease_id else None

    def add(self, lease: Lease) -> None:
        """Add a lease; its token, if any, refers to it from now on."""
        uid = lease.owner.uid
        self._count_by_uid[uid] = self._count_by_uid.get(uid, 0) + 1
        self._set(lease)
        if lease.token:
            self._tokens[token_key(lease.owner, lease.lifetime, lease.token)] = lease.id

    def replace(self, lease: Lease) -> None:
        """Replace the lease with the same id and the same consumer."""
        assert lease.id in self._by_id
        self._set(lease)

    def remove(self, lease_id: str) -> Lease:
        """Remove a lease and return it. Raises NoSuchLease."""
        lease = self.require(lease_id)
        del self._by_id[lease_id]
        self.special.pop(lease_id, None)
        self._count_by_uid[lease.owner.uid] -= 1
        if not self._count_by_uid[lease.owner.uid]:
            del self._count_by_uid[lease.owner.uid]
        self._set_leases_of(lease.consumer, _without(self.by_consumer.get(lease.consumer, ()), lease))
        if lease.token:
            key = token_key(lease.owner, lease.lifetime, lease.token)
            # The token may have been used again for a newer lease, which keeps it.
            if self._tokens.get(key) == lease_id:
                del self._tokens[key]
        return lease

    def _set(self, lease: Lease) -> None:
        before = self.by_consumer.get(lease.consumer, ())
        is_new = lease.id not in self._by_id and not lease.yielded
        self._by_id[lease.id] = lease
        if lease.exclusive or lease.lifetime is LeaseLifetime.UNIT:
            self.special[lease.id] = lease
        self._set_leases_of(lease.consumer, (*before, lease) if is_new else _with(before, lease))

    def _set_leases_of(self, consumer: str, leases: tuple[Lease, ...]) -> None:
        left = {**self.by_consumer, consumer: leases}
        if not leases:
            del left[consumer]
        self.by_consumer = left


def _with(leases: tuple[Lease, ...], lease: Lease) -> tuple[Lease, ...]:
    """The leases with this one in its place, or at the end; without it while its consumer is given back."""
    if lease.yielded:
        return _without(leases, lease)
    if any(one.id == lease.id for one in leases):
        return tuple(lease if one.id == lease.id else one for one in leases)
    return (*leases, lease)


def _without(leases: tuple[Lease, ...], lease: Lease) -> tuple[Lease, ...]:
    for place, one in enumerate(leases):
        if one.id == lease.id:
            return (*leases[:place], *leases[place + 1 :])
    return leases
