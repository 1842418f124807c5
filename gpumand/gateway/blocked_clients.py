"""Warns if the gateway listens at an address that other hosts can reach, and its own unit drops their packets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from gpumand.bus.connection import BusConnection, BusError, BusLost
from gpumand.domain.ip_access import clients_to_allow, lets_only_this_host_in
from gpumand.service_manager.own_unit import ip_lists

log = logging.getLogger(__name__)

QUERY_SEC = 10.0


async def warn_of_blocked_clients(bus_address: str, addresses: Sequence[str]) -> None:
    """Log a warning if the unit of this process lets no other host in. Without an answer of systemd, nothing is logged.

    Args:
        bus_address: "system", "session" or a D-Bus address: where systemd is asked.
        addresses: the IP addresses of the sockets that this process has opened and that other hosts can reach.
    """
    try:
        async with asyncio.timeout(QUERY_SEC):
            bus = await BusConnection.connect(bus_address)
            try:
                allow, deny = await ip_lists(bus)
            finally:
                await bus.close()
    except (BusError, BusLost, TimeoutError) as error:
        log.debug("systemd did not say which addresses the unit of the gateway lets in: %r", error)
        return
    if blocked := [one for one in addresses if lets_only_this_host_in(one, allow, deny)]:
        log.warning("%s", blocked_text(blocked))
    else:
        log.debug("the unit of the gateway lets other hosts in")


def blocked_text(addresses: Sequence[str]) -> str:
    """What clients at these addresses see, and the drop-in that lets them in."""
    return (
        f"clients of other hosts and of containers get no answer at {', '.join(addresses)}: IPAddressAllow= of the "
        "gateway's unit lets only this host in, and their packets are dropped. Permit their addresses: systemctl edit "
        f"gpumand-gateway, with the lines [Service] and IPAddressAllow={clients_to_allow(addresses)}, and then: "
        "systemctl restart gpumand-gateway"
    )
