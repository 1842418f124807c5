"""Keys of a fleet in the store: /gpumand/<fleet>/hosts, leases, intents, unique, pins and drain."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FLEET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONSUMER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_LEASE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_machine_id(text: str) -> bool:
    """Whether a text is a machine id: 32 lower-case hex digits."""
    return _MACHINE_ID.fullmatch(text) is not None


def is_consumer_name(text: str) -> bool:
    """Whether a text can be the name of a consumer, as the configuration allows it."""
    return _CONSUMER.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one fleet. Every method raises ValueError for a name that would change the structure of a key.

    Args:
        fleet: name of the fleet.
    """

    fleet: str

    def __post_init__(self) -> None:
        _check(_FLEET, self.fleet, "fleet")

    @property
    def root(self) -> str:
        """Prefix of all keys."""
        return f"/gpumand/{self.fleet}/"

    @property
    def hosts(self) -> str:
        """Prefix of the rows of hosts."""
        return f"{self.root}hosts/"

    @property
    def intents(self) -> str:
        """Prefix of the intents of routers."""
        return f"{self.root}intents/"

    @property
    def uniques(self) -> str:
        """Prefix of the holders of unique consumers."""
        return f"{self.root}unique/"

    @property
    def leases(self) -> str:
        """Prefix of the published leases of all hosts."""
        return f"{self.root}leases/"

    @property
    def drains(self) -> str:
        """Prefix of the hosts that an administrator drains."""
        return f"{self.root}drain/"

    @property
    def pins(self) -> str:
        """Prefix of the consumers that an administrator pinned to a host."""
        return f"{self.root}pins/"

    def host(self, machine_id: str) -> str:
        """Key of the row of a host."""
        return self.hosts + _check(_MACHINE_ID, machine_id, "machine id")

    def leases_of(self, machine_id: str) -> str:
        """Prefix of the published leases of a host."""
        return f"{self.leases}{_check(_MACHINE_ID, machine_id, 'machine id')}/"

    def lease(self, machine_id: str, lease_id: str) -> str:
        """Key of a published lease."""
        return self.leases_of(machine_id) + _check(_LEASE_ID, lease_id, "lease id")

    def intent(self, consumer: str, replica: int = 0) -> str:
        """Key of the intent to load a consumer, or to load one more copy of it on another host (replica 1, 2, ...)."""
        name = self.intents + _check(_CONSUMER, consumer, "consumer")
        return f"{name}/{int(replica)}" if replica else name

    def unique(self, consumer: str) -> str:
        """Key of the host that holds a unique consumer."""
        return self.uniques + _check(_CONSUMER, consumer, "consumer")

    def drain(self, machine_id: str) -> str:
        """Key that drains a host."""
        return self.drains + _check(_MACHINE_ID, machine_id, "machine id")

    def pin(self, consumer: str) -> str:
        """Key of the host that a consumer is pinned to."""
        return self.pins + _check(_CONSUMER, consumer, "consumer")


def last_part(key: str, prefix: str) -> str:
    """The part of a key after its prefix; "" for a key outside the prefix."""
    return key[len(prefix) :] if key.startswith(prefix) else ""


def _check(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a valid {what}")
    return text
