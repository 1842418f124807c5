"""The values in the store: rows, which hosts publish about themselves, and the intents of routers.

Keys of the JSON forms that this version does not know are kept in ``extra``, so that a newer version can add keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gpumand.domain.residency_states import Residency

API = 1
"""Version of the protocol between routers and agents: the highest that this version of gpumand-fleet understands.

A router sends the calls of its own version. An agent with a higher one understands them as well, since calls only get
new keys.
"""

OLDEST_API = 1
"""The lowest version that understands all calls of this router; it sends no requests to hosts with a lower one."""

NOTHING: Mapping[str, object] = MappingProxyType({})


def _nothing() -> Mapping[str, object]:
    return NOTHING


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device of a host.

    Attributes:
        uuid: the driver's name for the device.
        total_mib: its size; None where unknown.
        free_mib: memory that is not in use, as measured; None where unknown, which is not 0.
        extra: unknown keys of the JSON form.
    """

    uuid: str
    total_mib: int | None = None
    free_mib: int | None = None
    extra: Mapping[str, object] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class ConsumerRow:
    """A consumer of a host.

    Attributes:
        residency: where its model is.
        need_mib: VRAM that it needs when it is loaded; None where unknown.
        leases: number of its leases.
        limit: number of leases that it can have at the same time, see ``lease_limits``; None = no limit, or unknown.
        queue: number of requests that wait for it.
        load_ms: expected time of a load from disk; None where it was never measured.
        wake_ms: expected time of a load from host RAM.
        park_ms: expected time of an unload or of parking.
        hold_ms: mean time that a lease lasts.
        device: index of the device that it is on or prefers; None where unknown or not decided.
        unique: it may be resident on one host of the fleet only.
        extra: unknown keys of the JSON form.
    """

    residency: Residency = Residency.UNKNOWN
    need_mib: int | None = None
    leases: int = 0
    limit: int | None = None
    queue: int = 0
    load_ms: int | None = None
    wake_ms: int | None = None
    park_ms: int | None = None
    hold_ms: int | None = None
    device: int | None = None
    unique: bool = False
    extra: Mapping[str, object] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host of the fleet: the value of its key ``hosts/<machine-id>``.

    Attributes:
        machine_id: 32 lower-case hex digits.
        epoch: rises with every start of the host's agent; see ``Membership.epoch``.
        seq: rises with every row of an epoch; ``RowPublisher`` counts it.
        name: host name, for people.
        url: address of its agent.
        gateway: address of its gateway, where its consumers are reached; "" = it has none.
        version: version of gpumand; "" while it gives the agent no answer.
        api: version of the protocol.
        devices: its devices, in the order of their indices.
        ram_mib: available RAM; None where unknown.
        consumers: name -> consumer.
        queue: number of all waiting requests of the host.
        draining: the host takes no new leases from the fleet.
        omitted: number of consumers that the row had no space for; see ``row_json``.
        extra: unknown keys of the JSON form.
    """

    machine_id: str
    epoch: int = 0
    seq: int = 0
    name: str = ""
    url: str = ""
    gateway: str = ""
    version: str = ""
    api: int = API
    devices: tuple[DeviceRow, ...] = ()
    ram_mib: int | None = None
    consumers: Mapping[str, ConsumerRow] = field(default_factory=lambda: MappingProxyType({}))
    queue: int = 0
    draining: bool = False
    omitted: int = 0
    extra: Mapping[str, object] = field(default_factory=_nothing)

    @property
    def order(self) -> tuple[int, int]:
        """Of two rows of a host, the one with the higher order is the newer one."""
        return self.epoch, self.seq

    @property
    def is_away(self) -> bool:
        """Whether gpumand gives the agent no answer, as while it restarts. The host's consumers are then unknown."""
        return not self.version and not self.consumers

    @property
    def outdated(self) -> str:
        """Why this router cannot use the host: its agent understands too old calls only; "" = it can."""
        if self.api >= OLDEST_API:
            return ""
        need = f"runs version {self.api} of the fleet's protocol, and at least {OLDEST_API} is needed"
        return f"{need}: upgrade gpumand-fleet there"

    def is_of_same_host(self, other: HostRow) -> bool:
        """Whether two rows with one machine id are those of one host: hosts made from one image have the same id."""
        return self.name == other.name or self.url == other.url


@dataclass(frozen=True, slots=True)
class Intent:
    """The intention of a router to load a consumer on a host: the value of the key ``intents/<consumer>``.

    Attributes:
        host: machine id of the host.
        router: name of the router, unique to its process.
        nonce: random, unique to this intent: a router that got no answer recognizes its own intent by it.
        until_usec: CLOCK_REALTIME of the router at which the intent ends; for people, since clocks differ.
    """

    host: str
    router: str
    nonce: str
    until_usec: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """The host of a unique consumer: the value of the key ``unique/<consumer>``.

    Attributes:
        host: machine id of the host.
        nonce: random, unique to this claim: a release of an earlier claim that comes late must not undo a later one.
    """

    host: str
    nonce: str
