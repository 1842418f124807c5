"""The port ``FleetStore``: where hosts publish their rows, and where routers agree about loads.

Implementations: etcd, static peers (no claims), and ``gpumand.testing.fleet_store`` in memory.

Every write can have an unknown outcome: the answer is lost when a member of etcd or the network fails. All methods are
therefore idempotent, and an implementation repeats them itself for a limited time before it raises ``UnknownOutcome``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from gpumand.fleet.rows import HostRow


class StoreError(Exception):
    """A failure of the store; the message is one line for people.

    None of these is an OSError: PermissionError is one, and a caller that retries on OSError would take a refusal for
    an outage.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class StoreUnavailable(StoreError):
    """The store cannot be reached, or has no quorum. The operation was not carried out."""


class UnknownOutcome(StoreError):
    """The answer was lost: the write may have been carried out, or may be carried out later."""


class Denied(StoreError):
    """The store refuses: certificate, user or role do not allow it. A retry is pointless."""


class MembershipLost(StoreError):
    """The host's lease in the store has ended, and with it all keys of the host. Join again."""


def refuse_other_host(stored: HostRow, row: HostRow) -> None:
    """Raise Denied if the stored row with the machine id of a row is that of another host.

    Both would count as one host: each would take the unique consumers of the other for its own.
    """
    if not stored.is_of_same_host(row):
        raise Denied(
            f"the host {stored.name} ({stored.url}) has the machine id of this host, as copies of one image have. Give "
            "one of them another machine id (man 5 machine-id), and restart it."
        )


@dataclass(frozen=True, slots=True)
class Membership:
    """A host that has joined.

    Attributes:
        epoch: what the rows of this agent must carry, at least the epoch of the row that joined. It is higher than the
            epochs of all earlier agents of the host, even if their rows are gone.
        ttl_sec: seconds after the last renewal at which the host's keys disappear.
        sent: ``Clock.boottime`` at which the request was sent; the keys exist until ``sent + ttl_sec`` at least.
        revision: revision of the store at which the row was written.
    """

    epoch: int
    ttl_sec: float
    sent: float
    revision: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value, as text that is not checked yet.

    Attributes:
        key: the whole key.
        value: its value; at most 64 KiB.
        revision: revision of the store that wrote the value; a higher revision is newer, for all keys.
    """

    key: str
    value: str
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries below a prefix.

    A watch begins with one, and repeats it whenever it may have missed changes: keys that are not in it are gone.
    """

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Written:
    """A key was written."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Removed:
    """A key was removed, or its lease has ended."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The watch lost the store: the last reported state is kept and may be old until the next ``Listing``."""

    reason: str


Change = Listing | Written | Removed | Interrupted


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim.

    Attributes:
        ok: the key has the claimed value now.
        revision: the revision at which the key got its value: the token that a router sends with an acquire.
        value: the value of the key: the claimed one, or that of another claim.
    """

    ok: bool
    revision: int
    value: str


class FleetStore(Protocol):
    """One host's access to the store of its fleet, shared by its agent and its router.

    Every method but ``watch`` raises ``StoreUnavailable`` and ``Denied``; those that write raise ``UnknownOutcome``
    too. Every method returns or raises within a limited time.
    """

    async def join(self, row: HostRow) -> Membership:
        """Publish a host for the first time, or again after ``MembershipLost``.

        Begins a lease of the host; keys that an earlier lease of this agent holds disappear. Raises ``Denied`` while
        another host with the same machine id is in the fleet.
        """

    async def renew(self) -> None:
        """Extend the host's lease by its time to live. Raises ``MembershipLost``."""

    async def update(self, row: HostRow) -> int:
        """Replace the host's row, unless the store has a newer one; return the revision of the stored row.

        Raises ``MembershipLost``.
        """

    async def leave(self) -> None:
        """End the host's lease at once, so that all its keys disappear; no change if there is none."""

    async def put(self, key: str, value: str, *, lasting: bool = False) -> int:
        """Write a key and return the revision.

        Args:
            key: the whole key, see ``Keys``.
            value: its value.
            lasting: keep it until it is removed, for pins and drains. Otherwise it disappears with the host's lease,
                and the method raises ``MembershipLost`` if there is none.
        """

    async def remove(self, key: str) -> None:
        """Remove a key; no change if it does not exist."""

    async def claim(self, key: str, value: str, ttl_sec: float | None = None, *, former: str = "") -> Claim:
        """Write a key if it does not exist.

        A claim of the value that the key has already succeeds and is extended, so a claim whose answer was lost can be
        repeated. The value must therefore be unique to the claim: two claims with equal values would both succeed.
        A key that an earlier agent of this host holds is bound to the new lease of the host.

        Args:
            key: the whole key, see ``Keys``.
            value: its value.
            ttl_sec: seconds until the claim ends by itself, for intents; None = with the host's lease, for unique
                consumers; raises ``MembershipLost`` then if there is none.
            former: the value of an earlier claim of this host, which this one replaces; "" = none. Another host could
                come between a release and another claim.
        """

    async def release(self, key: str, value: str) -> None:
        """Remove a key if it has this value; no change otherwise."""

    async def list(self, prefix: str) -> Listing:
        """All entries below a prefix, as the majority of the store has them now."""

    def watch(self, prefix: str) -> AsyncIterator[Change]:
        """Report a ``Listing`` first, and then every change below a prefix, without end.

        Changes that were missed show in another ``Listing``. While the store cannot be reached the watch reports
        ``Interrupted`` once and tries again by itself. Raises ``Denied``. Close the iterator to end the watch.
        """

    async def close(self) -> None:
        """Close all connections. The host's keys stay until its lease ends; see ``leave``."""
