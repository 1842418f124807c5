"""The log messages that somebody will look for one day: one sentence each, and everything in it as a field too."""

from __future__ import annotations

import logging

from gpumand.domain.errors import GpumandError
from gpumand.domain.events import EvictionReport
from gpumand.domain.lease import Lease, Owner
from gpumand.log.message_ids import ROUTINE_LOGGER, MessageId, fields

log = logging.getLogger(__name__)
routine = logging.getLogger(ROUTINE_LOGGER)

CALLER = 2
"""So that the place in the code is that of whoever had something to tell."""


def eviction(report: EvictionReport) -> None:
    """Somebody was evicted: who, for whom, how, what that gave and was to give, and why this one."""
    freed = f"{report.freed_mib} MiB freed" if report.verified else "what that freed cannot be read"
    log.info(
        "evicted %s on device %s for %s by %s: %s, %s expected, in %.2f s; why this one: %s",
        report.consumer,
        report.device,
        report.trigger,
        report.method,
        freed,
        _mib(report.expected_mib),
        report.duration_usec / 1e6,
        report.why or "not said",
        extra=_of(MessageId.EVICTION, report),
        stacklevel=CALLER,
    )


def eviction_failed(report: EvictionReport) -> None:
    """No method gave the memory back."""
    log.error(
        "evicting %s on device %s for %s failed, by %s: %s; %d MiB freed, %s expected; why this one: %s",
        report.consumer,
        report.device,
        report.trigger,
        " and ".join(report.tried) or "no method",
        report.error,
        report.freed_mib,
        _mib(report.expected_mib),
        report.why or "not said",
        extra=_of(MessageId.EVICTION_FAILED, report),
        stacklevel=CALLER,
    )


def grant(lease: Lease) -> None:
    """A lease stands. This happens all day long, so nothing is worked out where nobody reads it."""
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
    """An Acquire was refused."""
    log.info(
        "%s is not lent to uid %d: %s",
        consumer,
        owner.uid,
        error.message,
        extra=fields(MessageId.REFUSAL, consumer=consumer, owner_uid=owner.uid, error=error.dbus_name),
        stacklevel=CALLER,
    )


def degraded(why: str) -> None:
    """Figures cannot be read, or ("") can be again."""
    if why:
        log.warning("degraded: %s", why, extra=fields(MessageId.DEGRADED, error=why), stacklevel=CALLER)
    else:
        log.warning("VRAM figures are all there again", stacklevel=CALLER)


def _mib(mib: int | None) -> str:
    return "an unknown amount" if mib is None else f"{mib} MiB"


def _of(message: MessageId, report: EvictionReport) -> dict[str, object]:
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
