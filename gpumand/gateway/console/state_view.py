"""The state as pages and gpumanctl get it: gpumand's status, the gateway's listeners, and the requests in flight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gpumand.gateway.console.feed import Reading
from gpumand.gateway.console.limited_view import limited_status
from gpumand.gateway.requests import Client, Entry, RequestTable, State
from gpumand.gateway.visibility import may_see, reason_for
from gpumand.version import VERSION

MAX_REQUESTS = 1000
"""Maximum number of requests in one answer; the oldest ones are in it, and ``request_count`` counts all."""

USEC = 1_000_000

UNLIMITED = Client("")
"""A viewer that may see everything."""

OTHER_CLIENT = "another client"
"""Name of the clients of other requests, for one that may not see them all."""


@dataclass(frozen=True, slots=True)
class ShownListener:
    """A listener: its name, its consumer ("" for the gateway's own address), and where it listens."""

    name: str
    consumer: str
    address: str


@dataclass(slots=True)
class StateView:
    """Describes the gateway in plain values.

    Args:
        table: the requests in flight.
        listeners: returns the open listeners.
    """

    table: RequestTable
    listeners: Callable[[], tuple[ShownListener, ...]]
    _started_usec: int = field(default_factory=lambda: time.time_ns() // 1000)

    def state(self, reading: Reading, viewer: Client) -> dict[str, Any]:
        """Everything that a page shows.

        Args:
            reading: the last status of gpumand.
            viewer: the client that gets it.
        """
        listeners = self.shown_listeners(viewer)
        return {
            "gateway": {"version": VERSION, "started_usec": self._started_usec, "listeners": listeners},
            "gpumand": {"absence": reading.absence, "read_usec": reading.read_usec},
            "status": None if reading.status is None else _shown_status(reading.status, viewer),
            **self.requests(reading, viewer),
        }

    def requests(self, reading: Reading, viewer: Client) -> dict[str, Any]:
        """The requests in flight and the held jobs, the oldest first."""
        reasons = _reasons(reading.status or {})
        visible = [one for one in self.table if may_see(viewer, one.consumer)]
        return {
            "request_count": len(visible),
            "requests": [self._request(one, reasons, viewer) for one in _oldest(visible)],
        }

    def shown_listeners(self, viewer: Client) -> list[dict[str, str]]:
        """The open listeners."""
        shown = (one for one in self.listeners() if not one.consumer or may_see(viewer, one.consumer))
        return [{"name": one.name, "consumer": one.consumer, "address": one.address} for one in shown]

    def _request(self, entry: Entry, reasons: dict[str, str], viewer: Client) -> dict[str, Any]:
        waits_for = entry.waits_for
        if entry.state is State.WAITING:
            waits_for = reason_for(viewer, waits_for or reasons.get(entry.consumer, ""))
        return {
            "number": entry.number,
            "client": _client_name(entry, viewer),
            "consumer": entry.consumer,
            "method": entry.method,
            "path": entry.path,
            "class": entry.kind.value,
            "state": entry.state.value,
            "waits_for": waits_for,
            "began_usec": self._began_usec(entry),
            "status": entry.status,
            "sent_bytes": entry.sent_bytes,
        }

    def _began_usec(self, entry: Entry) -> int:
        # In tenths of a second: the difference of two clocks would otherwise change with every answer.
        began = time.time() - (self.table.now() - entry.began_at)
        return round(began * 10) * (USEC // 10)


def _oldest(entries: Iterable[Entry]) -> Iterable[Entry]:
    return sorted(entries, key=lambda one: one.number)[:MAX_REQUESTS]


def _client_name(entry: Entry, viewer: Client) -> str:
    is_shown = viewer.consumers is None or viewer.may_evict or viewer.name == entry.client.name
    return entry.client.name if is_shown else OTHER_CLIENT


def _shown_status(status: dict[str, Any], viewer: Client) -> dict[str, Any]:
    return _shortened(status) if viewer.consumers is None else limited_status(status, viewer)


def _reasons(status: dict[str, Any]) -> dict[str, str]:
    """Why the first waiting request of each consumer waits."""
    queue = status.get("queue", [])
    return {
        one.get("consumer", ""): str(one.get("waiting_for", "")) for one in reversed(queue) if isinstance(one, dict)
    }


def _shortened(status: dict[str, Any]) -> dict[str, Any]:
    """A status without what is not shown: histories of consumers, which are most of it, and processes of consumers.

    A page may be open on another host, where no process of this one matters.
    """
    consumers = [_without(one, "used_mib_history") for one in status.get("consumers", [])]
    devices = [_without(one, "processes") for one in status.get("devices", [])]
    return status | {"consumers": consumers, "devices": devices}


def _without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}
