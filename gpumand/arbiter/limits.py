"""Limits for clients that send requests without end; all are far above the needs of one host."""

from __future__ import annotations

from gpumand.domain.errors import LimitsExceeded
from gpumand.domain.ledger import Ledger

MAX_WAITING = 512
MAX_LEASES = 1024
MAX_LEASES_PER_UID = 64


def lease_limit_error(ledger: Ledger, uid: int) -> LimitsExceeded | None:
    """The error for one more lease of this user; None while both limits allow it."""
    if ledger.lease_count_of(uid) >= MAX_LEASES_PER_UID:
        return LimitsExceeded(f"uid {uid} has {MAX_LEASES_PER_UID} leases, which is the limit; release one first")
    if len(ledger.leases) >= MAX_LEASES:
        return LimitsExceeded(f"{MAX_LEASES} leases are active, which is the limit; release one first")
    return None


def queue_limit_error(waiting: int) -> LimitsExceeded | None:
    """The error for one more waiting request; None while the limit allows it."""
    if waiting >= MAX_WAITING:
        return LimitsExceeded(f"{MAX_WAITING} requests are waiting, which is the limit; try again later")
    return None
