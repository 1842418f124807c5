"""Notifies systemd that the event loop of the gateway is alive, so that it restarts one that hangs."""

from __future__ import annotations

import asyncio

from gpumand.service_manager.notify import Notifier

USEC = 1_000_000
PINGS_PER_PERIOD = 3


async def ping_watchdog(notifier: Notifier, period_usec: int) -> None:
    """Notify systemd until cancelled.

    Args:
        notifier: the connection to systemd.
        period_usec: the period in which systemd expects a notification, in microseconds; 0 returns at once.
    """
    while period_usec:
        notifier.watchdog()
        await asyncio.sleep(period_usec / USEC / PINGS_PER_PERIOD)
