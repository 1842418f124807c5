"""A service that answers Acquire and Release like gpumand, with the same announcements, and does nothing else.

What a lease costs with it is what the D-Bus messages alone cost: no work outside gpumand/bus can go below that. Stop
gpumand and its socket on a booted system, run this as root, and measure it with the script that measures gpumand:

    systemctl mask --runtime --now gpumand.service gpumand.socket
    /usr/bin/python3 -m benchmarks.bare_service &
    /usr/bin/python3 -m benchmarks.anchors any-name
"""

from __future__ import annotations

import argparse
import asyncio
import time

from gpumand.arbiter.leases import new_lease_id
from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.grant_encoder import GRANT_SIGNATURE, GrantEncoder
from gpumand.bus.interfaces import own_interfaces
from gpumand.bus.lease_added import LeaseAddedEncoder
from gpumand.bus.lease_changes import LeaseChangesEncoder
from gpumand.bus.names import BUS_NAME, CONSUMER, LEASE, MANAGER, OBJECT_MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.object_tree import ADDED_SIGNATURE
from gpumand.bus.properties import Values, lease_state
from gpumand.bus.published_objects import consumer_path, lease_path
from gpumand.bus.send_queue import Lane
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.request import Grant

TTL_SEC = 60


class BareService:
    """Answers the two calls on one connection."""

    def __init__(self, connection: BusConnection) -> None:
        self._connection = connection
        self._interfaces = own_interfaces()
        self._lease_added, self._grants = LeaseAddedEncoder(self._interfaces[LEASE]), GrantEncoder()
        self._changes = LeaseChangesEncoder()
        self._leases: dict[str, str] = {}
        self._changed: set[str] = set()
        connection.before_write(self._announce_counts)
        connection.serve(self._answer)

    def _answer(self, call: IncomingCall) -> Reply:
        return self._acquire(call) if call.member == "Acquire" else self._release(call)

    def _acquire(self, call: IncomingCall) -> Reply:
        consumer, now_usec = call.body[0], time.time_ns() // 1000
        expires_usec = now_usec + TTL_SEC * 1_000_000
        owner = Owner(call.sender, 0)
        lease = Lease(new_lease_id(), consumer, "0", owner, LeaseLifetime.TTL, now_usec, expires_usec, TTL_SEC)
        path = lease_path(lease.id)
        self._leases[lease.id] = consumer
        self._changed.add(consumer)
        added = self._lease_added.encode(path, lease_state(lease))
        self._connection.emit(
            ROOT_PATH, OBJECT_MANAGER, "InterfacesAdded", ADDED_SIGNATURE, added, lane=Lane.STATE, checked=True
        )
        self._connection.emit(ROOT_PATH, MANAGER, "LeaseGranted", "ss", (lease.id, consumer), checked=True)
        return Reply(GRANT_SIGNATURE, ("", {}), checked=True, content=self._grants.encode(Grant(lease)))

    def _release(self, call: IncomingCall) -> Reply:
        lease_id = call.body[0]
        consumer = self._leases.pop(lease_id)
        self._changed.add(consumer)
        removed = (lease_path(lease_id), [LEASE])
        self._connection.emit(
            ROOT_PATH, OBJECT_MANAGER, "InterfacesRemoved", "oas", removed, lane=Lane.STATE, checked=True
        )
        ended = (lease_id, consumer, LeaseEnd.RELEASED.value)
        self._connection.emit(ROOT_PATH, MANAGER, "LeaseEnded", "sss", ended, checked=True)
        return Reply(checked=True)

    def _announce_counts(self) -> None:
        """Announce the numbers of leases once for an iteration of the event loop, as gpumand does."""
        count = len(self._leases)
        if self._changed:
            self._announce(ROOT_PATH, MANAGER, {"LeaseCount": count})
        for consumer in self._changed:
            self._announce(consumer_path(consumer), CONSUMER, {"Leases": count})
        self._changed.clear()

    def _announce(self, path: str, interface: str, changed: Values) -> None:
        body = self._changes.encode(self._interfaces[interface], changed)
        assert body is not None, "counts are known to the encoder"
        self._connection.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body, lane=Lane.STATE, checked=True)


async def run(address: str) -> None:
    """Serve until the bus is lost."""
    connection = await BusConnection.connect(address)
    BareService(connection)
    await connection.request_name(BUS_NAME)
    await connection.wait_lost()


def main() -> None:
    """Read the command line and run."""
    flags = argparse.ArgumentParser(
        prog="python3 -m benchmarks.bare_service", description=(__doc__ or "").partition("\n")[0]
    )
    flags.add_argument("--bus-address", default="system", help="address of the bus (default: the system bus)")
    asyncio.run(run(flags.parse_args().bus_address))


if __name__ == "__main__":
    main()
