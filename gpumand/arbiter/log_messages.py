"""Log messages with a MESSAGE_ID: evictions, grants, refusals, degraded operation. All their facts are also fields."""

from __future__ import annotations

import logging

from gpumand.domain.errors import GpumandError
from gpumand.domain.events import EvictionReport
from gpumand.domain.lease import Lease, Owner
from gpumand.log.message_ids import ROUTINE_LOGGER, MessageId, fields

log = logging.getLogger(__name__)
routine = logging.getLogger(ROUTINE_LOGGER)

CALLER = 2
"""The stack level of the caller, so that the logged code location is the caller's and not this module."""


def eviction(report: EvictionReport) -> None:
    """Log an eviction: the victim, the requesting consumer, the method, freed and expected memory, and the reason."""
    freed = f"{report.freed_mib} MiB freed" if report.verified else "freed memory unknown"
    log.info(
        "evicted %s on device %s for %s by %s: %s, %s expected, in %.2f s; reason: %s",
        report.consumer,
        report.device,
        report.trigger,
        report.method,
        freed,
        _mib(report.expected_mib),
        report.duration_usec / 1e6,
        report.why or "none given",
        extra=_eviction_fields(MessageId.EVICTION, report),
        stacklevel=CALLER,
    )


def eviction_failed(report: EvictionReport) -> None:
    """Log an eviction in which no method freed the expected memory."""
    log.error(
        "evicting %s on device %s for %s failed, by %s: %s; %d MiB freed, %s expected; reason: %s",
        report.consumer,
        report.device,
        report.trigger,
        " and ".join(report.tried) or "no method",
        report.error,
        report.freed_mib,
        _mib(report.expected_mib),
        report.why or "none given",
        extra=_eviction_fields(MessageId.EVICTION_FAILED, report),
        stacklevel=CALLER,
    )


def grant(lease: Lease) -> None:
    """Log a granted lease."""
    # Grants are frequent: build no fields where routine messages are not logged.
    if not routine.isEnabledFor(logging.INFO):
        return
    named = {"consumer": lease.consumer, "lease": lease.id, "device": lease.device, "owner_uid": lease.owner.uid}
    routine.info(
        "lease %s on %s granted to uid %d on device %s",
        lease.id,
        lease.consumer,
        lease.owner.uid,
        lease.device,
        extra=fields(MessageId.GRANT, **named),
        stacklevel=CALLER,
    )


def refusal(consumer: str, owner: Owner, error: GpumandError) -> None:
    """Log a refused Acquire."""
    log.info(
        "refused %s to uid %d: %s",
        consumer,
        owner.uid,
        error.message,
        extra=fields(MessageId.REFUSAL, consumer=consumer, owner_uid=owner.uid, error=error.dbus_name),
        stacklevel=CALLER,
    )


def lease_health(lease: Lease) -> None:
    """Log that the consumer of a lease is gone, or back."""
    if lease.degraded:
        log.warning("lease %s is degraded: %s", lease.id, lease.degraded)
    else:
        log.info("lease %s: %s is resident again", lease.id, lease.consumer)


def degraded(why: str) -> None:
    """Log that VRAM cannot be read; with "", that it can be read again."""
    if why:
        log.warning("degraded: %s", why, extra=fields(MessageId.DEGRADED, error=why), stacklevel=CALLER)
    else:
        log.warning("VRAM can be read again", stacklevel=CALLER)


def _mib(mib: int | None) -> str:
    return "unknown" if mib is None else f"{mib} MiB"


def _eviction_fields(message: MessageId, report: EvictionReport) -> dict[str, object]:
    return fields(
        message,
        consumer=report.consumer,
        device=report.device,
        trigger=report.trigger,
        method=report.method,
        expected_mib=report.expected_mib,
        freed_mib=report.freed_mib,
        why=report.why,
        error=report.error,
    )
