"""The settings of the process ``gpumand-fleet``: this host, its addresses, its store, and the rights of callers.

``config`` makes it from /etc/gpumand/fleet.toml; tests and the demo make it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

DEFAULT_SOCKET = Path("/run/gpumand-fleet/fleet.sock")

ANY_CALLER = "*"
"""In ``FleetConfig.allow``: every caller without an entry of its own."""


class Right(StrEnum):
    """An operation of an agent that a caller needs permission for."""

    ACQUIRE = "acquire"
    PLAN = "plan"
    LOAD = "load"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates for the connections between hosts.

    Attributes:
        ca: certificate of the fleet's certificate authority.
        certificate: certificate of this host, without a common name.
        key: private key of that certificate.
    """

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """The store of the fleet.

    Attributes:
        endpoints: URLs of its members; () = those of the SRV records of ``domain``.
        user: name of the user in etcd; "" = without a login.
        password_file: file with the password of this user.
        domain: DNS domain with SRV records of the members; "" = ``endpoints`` has them.
    """

    endpoints: tuple[str, ...]
    user: str = ""
    password_file: Path | None = None
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """The configuration of one host's agent and router.

    Attributes:
        fleet: name of the fleet.
        host: name of this host, for people and in ``allow`` of other hosts.
        machine_id: machine id of this host; "" = as in /etc/machine-id.
        url: URL at which other hosts reach this agent.
        listen: addresses that the agent listens on, as IP:PORT; port 0 takes a free one.
        gateway_url: URL at which other hosts reach this host's gateway; "" = its consumers have no remote endpoint.
        socket: Unix socket of the local API.
        bus: bus of the local gpumand: "system", "session" or an address.
        ttl_sec: seconds after which a host that does not report is lost for all others.
        replicas_at: length of a consumer's queue from which on it is loaded on one more host; 0 = never.
        etcd: the store; None = the hosts of ``peers`` are asked directly.
        peers: URL of the agent of each other host, by its name.
        tls: certificates; None = connections between hosts are not encrypted.
        allow: rights of callers, by the name of their host.
    """

    fleet: str = "default"
    host: str
    machine_id: str = ""
    url: str
    listen: tuple[str, ...] = ()
    gateway_url: str = ""
    socket: Path = DEFAULT_SOCKET
    bus: str = "system"
    ttl_sec: float = 10.0
    replicas_at: int = 0
    etcd: EtcdConfig | None = None
    peers: Mapping[str, str] = field(default_factory=dict)
    tls: TlsFiles | None = None
    allow: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def may(self, caller: str, right: Right) -> bool:
        """Whether a caller may use a right here; one with an entry of its own has only the rights of that entry."""
        return right in self.allow.get(caller, self.allow.get(ANY_CALLER, frozenset()))
