"""Ports: the interfaces between the arbiter and everything outside it, as Protocols.

``gpumand.testing`` has a fake of each of them. No method blocks the event loop, and every implementation limits the
time of its methods: the arbiter may await any of them without a timeout of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from gpumand.domain.consumer import BusyReport, ConsumerSpec, Health, UnitState
from gpumand.domain.container import ContainerState
from gpumand.domain.device import Devices, Reading
from gpumand.domain.driver_power import NO_POWER, DriverPower
from gpumand.domain.history import HistoryEntry, HistoryQuery
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.reservation import Holder


class RouteFailed(Exception):
    """The load or unload route of a consumer did not answer 2xx in time; the message is one line.

    Attributes:
        refused: the connection was refused: worth a retry while the unit is starting, pointless otherwise.
        status: HTTP status of the answer; 0 when there was none.
    """

    def __init__(self, message: str, *, refused: bool = False, status: int = 0) -> None:
        super().__init__(" ".join(message.split()))
        self.refused = refused
        self.status = status


class UnitFailed(Exception):
    """A unit did not reach the requested state; the message is one line and names the unit.

    Attributes:
        reason: "not-found", "masked", "failed", "timeout", "reactivated", "denied", "unavailable" (no systemd on the
            bus), or the result of the systemd job.
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(" ".join(message.split()))
        self.reason = reason


class ContainerFailed(Exception):
    """A container did not reach the requested state, or could not be inspected; the message is one line with its name.

    Attributes:
        reason: "not-found", "ambiguous" (several engines have the name), "denied" (not a configured container, or no
            right to use the engine), "failed", "timeout", "restarted" (it ran again right after a stop), or
            "unavailable" (no engine or no helper answers).
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(" ".join(message.split()))
        self.reason = reason


class Clock(Protocol):
    """Source of time; tests replace it by a clock that they control."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary fixed moment; never decreases."""

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""

    def suspended_sec(self) -> float:
        """Total seconds that the host has been suspended, which ``monotonic`` does not count."""

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds of monotonic time."""


class VramSource(Protocol):
    """Source of VRAM readings."""

    name: str

    async def read(self, only: Devices = ()) -> Reading:
        """Take fresh samples of devices.

        Args:
            only: indices of the devices that the caller needs now; () = all. A source may leave the others out, so that
                readings in quick succession cost little.

        Never raises for a failure of the driver: the error is in the Reading. A call that hangs is abandoned after a
        limited time, the Reading reports it, and its thread is left to finish.
        """

    def reopen(self) -> None:
        """Make the next reading reopen the driver: handles opened before a suspend are invalid."""

    async def close(self) -> None:
        """Release the driver library."""


class DriverHangs(Exception):
    """The driver does not answer, so that it cannot be released; the message is one line."""


@runtime_checkable
class Driver(Protocol):
    """A driver that is kept open between readings, and can be closed while nothing needs it."""

    async def release_driver(self) -> None:
        """Close the driver; the next reading opens it again. Raises DriverHangs."""

    def rest_driver(self, *, resting: bool) -> None:
        """While it rests, readings of all devices have the last samples of its devices and do not open the driver.

        A reading that names devices of the driver reads them all the same, and so does one on a host without other
        devices.
        """

    async def power(self) -> DriverPower:
        """The power states of its cards. Never wakes a card, and never raises."""


@runtime_checkable
class Retrying(Protocol):
    """A source that waits longer and longer before it opens a driver again that has failed."""

    def retry(self) -> None:
        """Open what has failed as a whole with the next reading, instead of after its delay.

        Whatever works, or hangs, is left alone.
        """


class NoDriver:
    """A source without a driver that could be closed."""

    async def release_driver(self) -> None:
        """Do nothing."""

    def rest_driver(self, *, resting: bool) -> None:
        """Do nothing."""

    async def power(self) -> DriverPower:
        """No card is known."""
        return NO_POWER


class HolderProcesses(Protocol):
    """Finds the processes of programs that hold reservations, so that readings attribute their memory to them."""

    async def identify(self, owner: Owner, lifetime: LeaseLifetime) -> Holder:
        """The processes that a reservation of this client is for. Never raises; what is unknown is left empty."""

    async def ancestors(self, pid: int) -> tuple[int, ...]:
        """Process ids of the ancestors of a process, its parent first. Never raises; () where they are unknown."""

    def follow(self, holders: Mapping[str, Holder]) -> None:
        """Attribute the memory of these processes to reservations in every reading that begins after this call.

        Args:
            holders: name of the reservation -> its processes; of several with the same processes, the first counts.
        """


class HostMemory(Protocol):
    """Available RAM of the host, which parked consumers need."""

    async def available_mib(self) -> int | None:
        """MiB that can be allocated without swapping, as estimated by the kernel; None where unknown."""

    async def close(self) -> None:
        """Stop reading."""


class UnitManager(Protocol):
    """The operations of systemd that gpumand uses."""

    async def state(self, unit: str) -> UnitState:
        """Current state of a unit. Raises UnitFailed with reason "unavailable" where systemd does not answer."""

    async def report_states(
        self, units: Iterable[str], report: Callable[[UnitState], None]
    ) -> Mapping[str, UnitFailed]:
        """Report the current state of each of many units, and return why the others are unknown.

        Args:
            units: names of units.
            report: called once for each known state, before a newer one can be announced. The result, the run and the
                restarts of a unit that is inactive and has no job may be missing.
        """

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start a unit, wait for the job, and check ActiveState. Raises UnitFailed."""

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop a unit with all its processes, wait for the job, and check ActiveState. Raises UnitFailed."""

    async def unit_of_pid(self, pid: int) -> str:
        """The unit that a process runs in, or "" where unknown."""

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        """The last lines of the log of a run of a unit, at most five, none of them empty; () when there are none.

        Args:
            unit: name of the unit.
            invocation_id: hex id of the run; "" = the current or last one.
        """

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Call ``changed`` whenever one of these units changes state, whatever causes the change.

        Replaces the set of watched units.
        """


class Containers(Protocol):
    """The operations of container engines that gpumand uses.

    Containers are named as in the configuration: ``NAME``, an id prefix, ``docker:NAME`` or ``podman:NAME``.
    """

    async def inspect(self, name: str) -> ContainerState:
        """Current state of a container. Raises ContainerFailed."""

    async def list(self) -> tuple[ContainerState, ...]:
        """The containers that the caller may inspect: for the daemon the configured ones that exist, a capped number.

        Raises ContainerFailed with reason "unavailable" where no engine answers.
        """

    async def start(self, name: str, timeout_sec: float) -> None:
        """Start a container and check that it runs; no change when it runs already. Raises ContainerFailed."""

    async def stop(self, name: str, timeout_sec: float) -> None:
        """Stop a container with all its processes and check that it stays stopped. Raises ContainerFailed."""


class OwnerPresence(Protocol):
    """Presence of clients on the bus."""

    async def watch(self, bus_name: str) -> bool:
        """Report to the arbiter when this unique name leaves the bus; return whether it is on the bus now.

        The watch is set up before the bus is queried, so that no disconnect is missed in between. False only when the
        bus says that the name has no owner; a bus that does not answer proves nothing.
        """

    async def named(self, owner: Owner, since_usec: int) -> Owner:
        """Return an owner with the names of its user and program, for people; an unknown name is "".

        Args:
            owner: the owner.
            since_usec: CLOCK_REALTIME at which its process was certainly running.
        """


class ConsumerRoutes(Protocol):
    """HTTP requests to consumers."""

    async def load(self, spec: ConsumerSpec) -> None:
        """Call the load route. Raises RouteFailed."""

    async def unload(self, spec: ConsumerSpec) -> None:
        """Call the unload route. Raises RouteFailed. Success does not prove that VRAM became free."""

    async def probe_health(self, spec: ConsumerSpec) -> Health:
        """Call the health route. Never raises, whatever the consumer answers."""

    async def probe_busy(self, spec: ConsumerSpec) -> BusyReport:
        """Call the busy route for the number of jobs. Never raises, whatever the consumer answers."""

    async def close(self) -> None:
        """Close all connections."""


class ClientConnections(Protocol):
    """The connections of clients to local servers, as the kernel knows them."""

    async def clients_of(self, url: str, consumer: str = "") -> int | None:
        """Number of established connections to the server of a URL, without gpumand's own; None where unknown.

        Args:
            url: the server's URL.
            consumer: the consumer, which may run in a container with a network of its own; "" = none.
        """

    async def why_unreachable(self, url: str, consumer: str = "") -> str:
        """Why a connection to the URL was neither accepted nor refused, in one line; "" where unknown.

        Args:
            url: the server's URL.
            consumer: the consumer, which may run in a container with a network of its own; "" = none.
        """


class CpuTimes(Protocol):
    """Processor time of processes."""

    async def used_sec(self, pids: Iterable[int]) -> Mapping[int, float]:
        """Seconds of processor time that processes have used since they began; those that have ended are left out."""


class Store(Protocol):
    """Storage of the state that survives a crash or restart of the daemon.

    Every coroutine returns when the change is on disk (or, for a store in memory, done). Writes are performed in the
    order of the calls and never block the event loop.
    """

    async def put_lease(self, lease: Lease) -> None:
        """Store a lease. Raises OSError when it cannot be stored."""

    async def drop_lease(self, lease_id: str) -> None:
        """Remove a lease."""

    async def put_consumer(self, name: str, pinned: bool | None, last_used_usec: int) -> None:
        """Store the pin set by an administrator (None = as configured) and the time of last use of a consumer."""

    async def put_load(self, consumer: str, devices: Devices, began_usec: int) -> None:
        """Store that a load began on these devices at CLOCK_REALTIME ``began_usec``: it outlives the daemon."""

    async def drop_load(self, consumer: str) -> None:
        """Remove a load that ended, successfully or not."""

    async def read_loads(self) -> dict[str, tuple[Devices, int]]:
        """Consumer -> (devices, began_usec) of loads of this boot that were running when the daemon died."""

    async def read_leases(self) -> tuple[Lease, ...]:
        """All stored leases; unusable files are moved to quarantine with a warning, and skipped."""

    async def read_consumers(self) -> dict[str, tuple[bool | None, int]]:
        """Name -> (pinned, last_used_usec) of all stored consumers."""

    async def close(self) -> None:
        """Finish pending writes and close."""


class Archive(Protocol):
    """Storage that survives a reboot: the history, and learned values.

    It is useful but not vital: no method raises or waits long when the disk fails. A failure to write is logged once.
    """

    def add(self, entry: HistoryEntry) -> None:
        """Store a history entry, soon."""

    def save_learned(self, consumer: str, record: Mapping[str, Any]) -> None:
        """Store the learned values of a consumer, soon; replaces its earlier record."""

    async def read_learned(self) -> dict[str, dict[str, Any]]:
        """Consumer -> its last stored record, which is not validated."""

    async def entries(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        """The newest entries that match a query, newest first, including those added just before."""

    async def close(self) -> None:
        """Finish pending writes and close."""


@dataclass(frozen=True, slots=True)
class Ports:
    """One implementation of each port, passed to the arbiter."""

    clock: Clock
    source: VramSource
    units: UnitManager
    routes: ConsumerRoutes
    store: Store
    owners: OwnerPresence
    archive: Archive
    memory: HostMemory
    holders: HolderProcesses
    driver: Driver = field(default_factory=NoDriver)
    cpu_times: CpuTimes | None = None
