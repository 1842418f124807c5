"""The leases that hosts publish: the values of the keys ``leases/<machine-id>/<id>``, and those that a router knows."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from gpumand.fleet import json_fields
from gpumand.fleet.json_fields import InvalidJson, one_line
from gpumand.fleet.keys import Keys, is_consumer_name, is_machine_id, last_part
from gpumand.fleet.store import Entry

MAX_LEASE_BYTES = 4096
MAX_KNOWN = 4096
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease of a host.

    Attributes:
        consumer: its consumer; "" for a reservation.
        owner: unit or process that holds it.
        since_usec: CLOCK_REALTIME of the host when it was granted; 0 = unknown.
        reason: its purpose; for a lease of the fleet, also the user that it is for.
        via: name of the host whose router has placed it; "" for a lease of a client of gpumand itself.
    """

    consumer: str
    owner: str = ""
    since_usec: int = 0
    reason: str = ""
    via: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        fields = {"consumer": self.consumer, "owner": self.owner, "since": self.since_usec, "reason": self.reason}
        return fields | ({"via": self.via} if self.via else {})


def encode_lease(lease: LeaseRow) -> str:
    """The JSON form of a lease as text. Long texts are cut, and control characters become spaces."""
    fields = lease.document()
    document = {key: one_line(value, MAX_TEXT) if isinstance(value, str) else value for key, value in fields.items()}
    return json.dumps(document, separators=(",", ":"))


def parse_lease(text: str) -> LeaseRow:
    """Parse the JSON form of a lease. Raises InvalidJson."""
    fields = json_fields.parse_object(text, "lease", MAX_LEASE_BYTES)
    found = LeaseRow(
        consumer=json_fields.text(fields, "consumer", MAX_TEXT),
        owner=json_fields.text(fields, "owner", MAX_TEXT),
        since_usec=json_fields.number(fields, "since") or 0,
        reason=json_fields.text(fields, "reason", MAX_TEXT),
        via=json_fields.text(fields, "via", MAX_TEXT),
    )
    if found.consumer and not is_consumer_name(found.consumer):
        raise InvalidJson("the consumer of the lease has no valid name")
    return found


class PublishedLeases:
    """The leases that a router knows from the store.

    Args:
        keys: the keys of the fleet.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[str, LeaseRow] = {}

    @property
    def keys(self) -> AbstractSet[str]:
        """The keys of all known leases."""
        return self._known.keys()

    def holds(self, key: str) -> bool:
        """Whether a key is that of a lease."""
        machine_id, _, lease = last_part(key, self._keys.leases).partition("/")
        # Keys are written to the log where their values are ignored.
        return bool(lease) and lease.isprintable() and is_machine_id(machine_id)

    def write(self, entry: Entry) -> None:
        """Take over a lease; more than ``MAX_KNOWN`` are not kept. Raises InvalidJson."""
        if entry.key in self._known or len(self._known) < MAX_KNOWN:
            self._known[entry.key] = parse_lease(entry.value)

    def remove(self, key: str) -> None:
        """Forget a lease."""
        self._known.pop(key, None)

    def of(self, machine_id: str) -> list[dict[str, Any]]:
        """The leases of a host in JSON form, each with its ``id``, the oldest first."""
        prefix = self._keys.leases_of(machine_id)
        found = [(key, one) for key, one in self._known.items() if key.startswith(prefix)]
        ordered = sorted(found, key=lambda pair: (pair[1].since_usec, pair[0]))
        return [{"id": last_part(key, prefix)} | one.document() for key, one in ordered]
