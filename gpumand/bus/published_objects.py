"""Keeps the published D-Bus objects up to date with the arbiter, and sends its events as signals.

Changes are collected and announced together at the end of an iteration of the event loop, with one PropertiesChanged
for each object. The send queue writes them before the signals and the replies of the same iteration, so that clients
see state, then event, then reply. Of the consumers, only those that changed are computed again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from gpumand.bus.arbiter_port import ArbiterPort
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection, BusLost
from gpumand.bus.interfaces import Interface
from gpumand.bus.lease_added import LeaseAddedEncoder
from gpumand.bus.marshalling import EVICTION_SIGNATURE, eviction_body
from gpumand.bus.names import (
    CONSUMER,
    CONSUMER_PREFIX,
    DEVICE,
    DEVICE_PREFIX,
    LEASE,
    LEASE_PREFIX,
    MANAGER,
    ROOT_PATH,
)
from gpumand.bus.object_paths import escape_label
from gpumand.bus.object_tree import ObjectTree, PublishedObject
from gpumand.bus.properties import (
    Values,
    consumer_live_values,
    consumer_state,
    device_live_values,
    device_state,
    lease_state,
    manager_state,
)
from gpumand.bus.wire_text import text
from gpumand.domain.errors import NoSuchConsumer
from gpumand.domain.events import (
    ConsumersChanged,
    DevicesChanged,
    Event,
    EvictionDeferred,
    EvictionFailed,
    EvictionOccurred,
    LeaseDegraded,
    LeaseEnded,
    LeaseGranted,
    LeaseRenewed,
    LeaseRestored,
    LeaseReturned,
    LeaseWanted,
    LeaseYielded,
    SummaryChanged,
)
from gpumand.domain.lease import Lease
from gpumand.domain.status import DeviceStatus, Status

log = logging.getLogger(__name__)

LEASE_COUNT = ("LeaseCount",)
LEASES = ("Leases",)
"""The counts that a lease changes, of the manager and of a consumer."""

_LABEL = re.compile(r"[A-Za-z0-9_]+\Z")


class PublishedObjects:
    """Updates objects and sends signals for the arbiter's events."""

    def __init__(
        self,
        connection: BusConnection,
        arbiter: ArbiterPort,
        clients: Clients,
        tree: ObjectTree,
        interfaces: Mapping[str, Interface],
        version: str,
    ) -> None:
        self._connection = connection
        self._arbiter = arbiter
        self._clients = clients
        self._tree = tree
        self._interfaces = interfaces
        self._version = version
        self._lease_added = LeaseAddedEncoder(interfaces[LEASE])
        self._exported = False
        self._summary_changed = False
        self._devices_changed = False
        self._consumers_changed: set[str] = set()
        self._leased: set[str] = set()
        self._lease_count_touched = False
        self._senders = self._signal_senders()
        connection.before_write(self._flush_before_write)

    def export(self) -> None:
        """Add all current objects, without signals: clients subscribe once gpumand owns its bus name."""
        status = self._arbiter.status()
        self._tree.add(PublishedObject(ROOT_PATH, self._interfaces[MANAGER], self._manager_state()))
        self._set_devices(status)
        for consumer in status.consumers:
            self._set_consumer(consumer.name)
        for lease in status.leases:
            self._add_lease(lease, lease_path(lease.id))
        self._clients.allow_forgetting()
        self._exported = self._tree.announce = True

    def publish(self, event: Event) -> None:
        """Record an event and send its signal; before ``export`` this does nothing, since ``export`` reads all state.

        Never raises: a failure of the bus must not disturb the arbiter's decisions.
        """
        if not self._exported:
            return
        try:
            record = self._senders.get(type(event))
            if record is not None:
                record(event)
        except BusLost as error:
            log.debug("%s was not announced: %s", type(event).__name__, error)
        except Exception:
            log.exception("%s could not be announced", type(event).__name__)

    def _signal_senders(self) -> Mapping[type, Callable[[Any], None]]:
        """What to do with each type of event: record a change of state, or send the signal of an event."""
        return {
            ConsumersChanged: self._note_consumers,
            SummaryChanged: self._note_summary,
            DevicesChanged: self._note_devices,
            EvictionOccurred: lambda event: self._emit(
                "EvictionOccurred", EVICTION_SIGNATURE, eviction_body(event.report)
            ),
            EvictionFailed: lambda event: self._emit("EvictionFailed", EVICTION_SIGNATURE, eviction_body(event.report)),
            EvictionDeferred: lambda event: self._emit(
                "EvictionDeferred", EVICTION_SIGNATURE, eviction_body(event.report)
            ),
            LeaseGranted: lambda event: self._lease_granted(event.lease),
            LeaseEnded: lambda event: self._lease_ended(event.lease, str(event.reason)),
            LeaseWanted: lambda event: self._emit(
                "LeaseWanted", "sst", (event.lease.id, text(event.by), event.since_usec)
            ),
            LeaseRenewed: lambda event: self._tree.update(lease_path(event.lease.id), lease_state(event.lease)),
            LeaseDegraded: lambda event: self._lease_health_changed(event.lease),
            LeaseRestored: lambda event: self._lease_health_changed(event.lease),
            LeaseYielded: lambda event: self._lease_moved(event.lease, "LeaseYielded"),
            LeaseReturned: lambda event: self._lease_moved(event.lease, "LeaseReturned"),
        }

    def _note_consumers(self, event: ConsumersChanged) -> None:
        self._consumers_changed |= event.names
        self._connection.schedule_write()  # possibly no signal or reply follows that would schedule it

    def _note_summary(self, event: SummaryChanged) -> None:
        self._summary_changed = True
        self._connection.schedule_write()

    def _note_devices(self, event: DevicesChanged) -> None:
        self._devices_changed = True
        self._connection.schedule_write()

    def flush(self) -> None:
        """Announce all changes that have not been announced yet. Raises BusLost if the connection is gone."""
        if self._summary_changed or self._lease_count_touched:
            # Nearly every lease changes nothing but the count; all other changes come with an event of their own.
            state = self._manager_state() if self._summary_changed else self._state_with_lease_count()
            touched = LEASE_COUNT if self._lease_count_touched else ()
            self._summary_changed = self._lease_count_touched = False
            self._tree.update(ROOT_PATH, state, touched)
        if self._devices_changed:
            self._devices_changed = False
            self._set_devices(self._arbiter.status())
        while self._consumers_changed:
            name = self._consumers_changed.pop()
            self._set_consumer(name, LEASES if name in self._leased else ())
        self._leased.clear()

    def _flush_before_write(self) -> None:
        try:
            self.flush()
        except BusLost as error:
            log.debug("changes were not announced: %s", error)
        except Exception:
            log.exception("changes could not be announced")

    def _lease_granted(self, lease: Lease) -> None:
        # The lease count and the consumer's properties change with the lease, so they are announced before the signal.
        path = lease_path(lease.id)
        if self._tree.get(path) is None:
            self._add_lease(lease, path)
        self._lease_changed(lease)
        self._emit("LeaseGranted", "ss", (lease.id, text(lease.public_consumer)))

    def _lease_ended(self, lease: Lease, reason: str) -> None:
        path = lease_path(lease.id)
        if self._tree.get(path) is not None:
            self._tree.remove(path)
            self._clients.lease_ended(lease)
        self._lease_changed(lease)
        self._emit("LeaseEnded", "sss", (lease.id, text(lease.public_consumer), reason))

    def _lease_health_changed(self, lease: Lease) -> None:
        self._tree.update(lease_path(lease.id), lease_state(lease))
        if lease.degraded:
            self._emit("LeaseDegraded", "sss", (lease.id, text(lease.public_consumer), text(lease.degraded)))
        else:
            self._emit("LeaseRestored", "ss", (lease.id, text(lease.public_consumer)))

    def _lease_moved(self, lease: Lease, signal: str) -> None:
        if self._tree.get(lease_path(lease.id)) is not None:
            self._tree.update(lease_path(lease.id), lease_state(lease))
        self._lease_changed(lease)
        self._emit(signal, "ss", (lease.id, text(lease.public_consumer)))

    def _lease_changed(self, lease: Lease) -> None:
        # A grant and an end in one iteration leave the counts as they were; clients still learn that they changed.
        self._lease_count_touched = True
        if lease.reservation is None:
            self._consumers_changed.add(lease.consumer)
            self._leased.add(lease.consumer)

    def _add_lease(self, lease: Lease, path: str) -> None:
        state = lease_state(lease)
        item = PublishedObject(path, self._interfaces[LEASE], state)
        self._tree.add(item, self._lease_added.encode(path, state) if self._exported else None)
        self._clients.lease_granted(lease)

    def _emit(self, member: str, signature: str, body: tuple[object, ...]) -> None:
        self._connection.emit(ROOT_PATH, MANAGER, member, signature, body, checked=True)

    def _manager_state(self) -> Values:
        return manager_state(self._version, self._arbiter.summary())

    def _state_with_lease_count(self) -> Values:
        item = self._tree.get(ROOT_PATH)
        assert item is not None, "it was exported"
        return item.state | {"LeaseCount": self._arbiter.lease_count()}

    def _set_consumer(self, name: str, touched: Collection[str] = ()) -> None:
        path = consumer_path(name)
        try:
            state = consumer_state(self._arbiter.announced_consumer(name))
        except NoSuchConsumer:
            # A reload of the configuration removed the consumer.
            self._tree.remove(path)
            return
        if self._tree.get(path) is not None:
            self._tree.update(path, state, touched)
        else:
            live_values = self._consumer_live_values
            self._tree.add(PublishedObject(path, self._interfaces[CONSUMER], state, lambda: live_values(name)))

    def _consumer_live_values(self, name: str) -> Values:
        return consumer_live_values(self._arbiter.consumer_status(name))

    def _set_devices(self, status: Status) -> None:
        paths = {device_path(device.index): device for device in status.devices}
        for path in self._tree.paths(DEVICE_PREFIX):
            if path not in paths:
                self._tree.remove(path)
        for path, device in paths.items():
            self._set_device(path, device)

    def _set_device(self, path: str, device: DeviceStatus) -> None:
        if self._tree.get(path) is not None:
            self._tree.update(path, device_state(device))
            return
        index, live_values = device.index, self._device_live_values
        self._tree.add(
            PublishedObject(path, self._interfaces[DEVICE], device_state(device), lambda: live_values(index))
        )

    def _device_live_values(self, index: int) -> Values:
        # The object may still be published for a moment after its device disappeared; its values are unknown then.
        for device in self._arbiter.status().devices:
            if device.index == index:
                return device_live_values(device)
        return {}


def device_path(index: int) -> str:
    """Return the object path of a device."""
    return f"{DEVICE_PREFIX}{index}"


def consumer_path(name: str) -> str:
    """Return the object path of a consumer."""
    return CONSUMER_PREFIX + escape_label(name)


def lease_path(lease_id: str) -> str:
    """Return the object path of a lease, which ends in its id, escaped only if a path cannot contain it."""
    return LEASE_PREFIX + (lease_id if _LABEL.match(lease_id) else escape_label(lease_id))
