"""The seams between the arbiter and the world, as Protocols.

Fakes of every one of them ship in ``gpumand.testing``. None of these methods blocks the event loop, and each is
bounded in time by its implementation: the arbiter may await any of them without a timeout of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gpumand.domain.consumer import ConsumerSpec, Health, UnitState, Work
from gpumand.domain.device import Devices, Reading
from gpumand.domain.history import Entry, Query
from gpumand.domain.lease import Lease


class RouteFailed(Exception):
    """A consumer's load or unload route did not answer 2xx in time; the message is one line.

    Attributes:
        refused: nothing listens there: worth another try while its unit is coming up, pointless otherwise.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(" ".join(message.split()))
        self.refused = refused


class UnitFailed(Exception):
    """A unit did not reach the state that was asked for; the message is one line and names the unit.

    Attributes:
        reason: "not-found", "masked", "failed", "timeout", "reactivated", "denied", "unavailable" (no systemd on the
            bus), or what systemd's job result said.
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(" ".join(message.split()))
        self.reason = reason


class Clock(Protocol):
    """Time, so that tests can hold it."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""

    def suspended_sec(self) -> float:
        """Seconds that the host has spent suspended so far, which ``monotonic`` does not count."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of monotonic time."""


class VramSource(Protocol):
    """Where figures about VRAM come from."""

    name: str

    async def read(self) -> Reading:
        """Take a fresh sample of every device.

        Never raises for what a driver may do: an error is in the Reading. A call that hangs is given up after a
        bounded time (the reading says so) and its thread is left to finish.
        """

    def renew(self) -> None:
        """Have the next reading begin anew with the driver: what was opened before a suspend is void."""

    async def close(self) -> None:
        """Give the library back."""


class HostMemory(Protocol):
    """The host's RAM, as far as parked consumers need it."""

    async def available_mib(self) -> int | None:
        """MiB that may be taken without swapping, as the kernel estimates; None where that cannot be told."""

    async def close(self) -> None:
        """Ask no more."""


class UnitManager(Protocol):
    """systemd, as far as gpumand needs it."""

    async def state(self, unit: str) -> UnitState:
        """What the unit is now. Raises UnitFailed with reason "unavailable" where systemd cannot be asked."""

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start it, await the job, and read ActiveState. Raises UnitFailed."""

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop it with all its processes, await the job, and read ActiveState. Raises UnitFailed."""

    async def unit_of_pid(self, pid: int) -> str:
        """The unit a process runs in, or "" when it cannot be told."""

    async def failure_lines(self, unit: str) -> tuple[str, ...]:
        """The last lines of the unit's log, at most five, "" never among them; empty when there are none."""

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Call ``changed`` whenever one of these units changes state, also behind our back.

        Replaces the units watched before.
        """


class Owners(Protocol):
    """Who is still there on the bus."""

    async def watch(self, bus_name: str) -> bool:
        """Have the arbiter told when this unique name leaves the bus, then say whether it is there now.

        The watch is armed before the bus is asked, so that no death falls between. False only when the bus says that
        nobody owns the name; a bus that does not answer is no proof of death.
        """


class ConsumerRoutes(Protocol):
    """HTTP to consumers."""

    async def load(self, spec: ConsumerSpec) -> None:
        """Call the load route. Raises RouteFailed."""

    async def unload(self, spec: ConsumerSpec) -> None:
        """Call the unload route. Raises RouteFailed. A return proves nothing about VRAM."""

    async def probe(self, spec: ConsumerSpec) -> Health:
        """Ask the health route. Never raises for what a consumer may answer."""

    async def jobs(self, spec: ConsumerSpec) -> Work:
        """Ask the busy route how much work there is. Never raises for what a consumer may answer."""

    async def close(self) -> None:
        """Close all connections."""


class Store(Protocol):
    """What survives our own death.

    Every coroutine returns when the change is on disk (or, for a store in memory, done); writes are done in the
    order they were asked for and never block the event loop.
    """

    async def put_lease(self, lease: Lease) -> None:
        """Keep a lease. Raises OSError when it cannot be kept."""

    async def drop_lease(self, lease_id: str) -> None:
        """Forget a lease."""

    async def put_consumer(self, name: str, pinned: bool | None, last_used_usec: int) -> None:
        """Keep what was set by hand or learned about a consumer; pinned None = as configured."""

    async def put_load(self, consumer: str, devices: Devices, began_usec: int) -> None:
        """Keep that a load is under way on these devices since CLOCK_REALTIME ``began_usec``: it goes on without us."""

    async def drop_load(self, consumer: str) -> None:
        """Forget a load: it ended, well or not."""

    async def read_loads(self) -> dict[str, tuple[Devices, int]]:
        """Consumer -> (devices, began_usec) of loads that were under way when their keeper died, in this boot."""

    async def read_leases(self) -> tuple[Lease, ...]:
        """All leases kept; files that cannot be understood are set aside, with a warning, and left out."""

    async def read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        """Name -> (pinned, last_used_usec)."""

    async def close(self) -> None:
        """Finish what was asked for."""


class Archive(Protocol):
    """What is remembered for longer than a boot: what happened, and what was learned.

    It is of use, and nothing hangs on it: none of these methods raises or keeps anybody waiting for what a disk may
    do. What cannot be kept is told in the log, once.
    """

    def note(self, entry: Entry) -> None:
        """Keep an entry, soon."""

    def keep_learned(self, consumer: str, record: Mapping[str, Any]) -> None:
        """Keep what was learned about a consumer, soon; replaces what was kept before."""

    async def read_learned(self) -> dict[str, dict[str, Any]]:
        """Consumer -> what was kept last; anybody may have written it."""

    async def entries(self, query: Query) -> tuple[Entry, ...]:
        """The newest entries that answer a query, newest first, those noted a moment ago among them."""

    async def close(self) -> None:
        """Finish what was asked for."""


@dataclass(frozen=True, slots=True)
class World:
    """One of each port: all that the arbiter deals with."""

    clock: Clock
    source: VramSource
    units: UnitManager
    routes: ConsumerRoutes
    store: Store
    owners: Owners
    archive: Archive
    memory: HostMemory
