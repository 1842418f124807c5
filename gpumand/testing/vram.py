"""An in-memory implementation of the VramSource port; the test sets devices, processes and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.domain.driver_power import NO_POWER, DriverPower
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.reservation import Holder, ProcessKey
from gpumand.domain.telemetry import NO_TELEMETRY
from gpumand.ports import Clock, DriverHangs


@dataclass(slots=True)
class _Held:
    device: int
    process: ProcessUse
    seen_from: float
    seen_until: float = float("inf")
    is_stand_in: bool = False


@dataclass(slots=True)
class _Device:
    total_mib: int
    reserved_mib: int = 0
    unnamed_mib: int = 0
    lost: bool = False
    error: str = ""
    properties: dict[str, Any] = field(default_factory=dict)


class FakeVram:
    """A VramSource whose readings are exact and change only through its methods.

    Attributes:
        reads: number of readings started.
        device_reads: device -> number of readings of it.
        power_state: power states of the cards, as the kernel would report them.
        is_open: whether the driver is open, as it is from a reading until ``release_driver``.
        releases: number of calls of ``release_driver``.
        is_resting: whether readings of all devices leave out those of the driver.
        release_error: why the driver cannot be released; "" = it can.
        telemetry: telemetry of device 0.
        power_looks: number of calls of ``power``.
        renewals: number of calls of ``reopen``.
        holds: number of calls of ``hold``.
        read_sec: duration of a reading by the clock; like a driver's, it has the time of its start and the state at its
            end.
        attributed: value of ``attributed`` in samples with complete process lists.
        attributable: consumers in ``attributable`` of samples; ``hold`` adds its consumer.
        parents: pid -> pid of the process that started it; the memory of descendants counts for a reservation.
        closed: whether the source was closed.
    """

    def __init__(self, clock: Clock, *total_mib: int, name: str = "simulated") -> None:
        """Create one device for each size in MiB; by default one device of 24564 MiB."""
        self.name = name
        self.reads = 0
        self.device_reads: Counter[int] = Counter()
        self.power_state, self.is_open, self.releases, self.release_error = NO_POWER, False, 0, ""
        self.telemetry, self.power_looks = NO_TELEMETRY, 0
        self.renewals = 0
        self.holds = 0
        self.read_sec = 0.0
        self.attributed = True
        self.attributable: set[str] = set()
        self.closed = False
        self.parents: dict[int, int] = {}
        self._holders: dict[str, Holder] = {}
        self._clock = clock
        self._devices = [_Device(total) for total in total_mib or (24564,)]
        self._held: list[_Held] = []
        self._error = ""
        self.is_resting, self._last = False, dict[int, Sample]()
        self._hang_sec: float | None = None
        self.ancestors_of: dict[int, tuple[int, ...]] = {}

    def hold(
        self,
        pid: int,
        mib: int | None,
        *,
        device: int = 0,
        consumer: str = "",
        unit: str = "",
        name: str = "",
        shared: tuple[str, ...] = (),
        after_sec: float = 0.0,
    ) -> None:
        """Set the memory that a process holds on a device; None = it holds an amount that the driver does not report.

        ``after_sec`` delays the change in readings by this many seconds of the clock, as with a slow driver.
        """
        self.holds += 1
        self.release(pid, device=device, after_sec=after_sec)
        self._held = [one for one in self._held if not (one.is_stand_in and one.process.consumer == consumer)]
        self.attributable |= {consumer} - {""}
        process = ProcessUse(pid, mib, name, unit, consumer, shared=shared)
        self._held.append(_Held(device, process, self._clock.monotonic() + after_sec))

    def release(self, pid: int, *, device: int | None = None, after_sec: float = 0.0) -> None:
        """Release the memory of a process on one device or on all; readings show it ``after_sec`` later."""
        until = self._clock.monotonic() + after_sec
        for held in self._held:
            if held.process.pid == pid and device in (None, held.device):
                held.seen_until = min(held.seen_until, until)

    def release_consumer(self, consumer: str, *, after_sec: float = 0.0) -> None:
        """Release the memory of all processes of a consumer."""
        for pid in {held.process.pid for held in self._held if held.process.consumer == consumer}:
            self.release(pid, after_sec=after_sec)

    def stand_in(self, pid: int, mib: int, *, consumer: str, unit: str) -> None:
        """Let a process hold memory on device 0 for a consumer until the test lets another process of it do so."""
        self._held.append(_Held(0, ProcessUse(pid, mib, "", unit, consumer), self._clock.monotonic(), is_stand_in=True))

    def is_held_by(self, consumer: str) -> bool:
        """Whether any process of a consumer holds memory, or will hold it later."""
        return any(one.process.consumer == consumer and one.seen_until == float("inf") for one in self._held)

    def reserve(self, mib: int, device: int = 0) -> None:
        """Set the memory that the driver reserves for itself, which is neither used nor free."""
        self._devices[device].reserved_mib = mib

    def hold_unnamed(self, mib: int, device: int = 0) -> None:
        """Set the memory in use that belongs to no listed process, such as managed memory."""
        self._devices[device].unnamed_mib = mib

    def describe(self, device: int = 0, **properties: Any) -> None:
        """Set attributes of the samples of a device, such as ``pool`` or ``asleep``; later calls replace earlier."""
        self._devices[device].properties = properties

    def fail(self, error: str) -> None:
        """Make all readings fail with an error ("driver-mismatch: …"); devices stay listed. "" ends the failure."""
        self._error = error

    def fail_device(self, device: int, error: str, *, lost: bool = False) -> None:
        """Make the readings of one device fail. "" ends the failure."""
        self._devices[device].error = error
        self._devices[device].lost = lost

    def hang(self, timeout_sec: float = 5.0) -> None:
        """Simulate a hang: the next reading fails after ``timeout_sec``, later ones at once, until ``resume``."""
        self._hang_sec = timeout_sec

    def resume(self) -> None:
        """End the hang."""
        self._hang_sec = None

    async def identify(self, owner: Owner, lifetime: LeaseLifetime) -> Holder:
        """See HolderProcesses."""
        return Holder(
            ProcessKey(owner.pid, 1), unit=owner.unit if lifetime is LeaseLifetime.UNIT else "", program="job"
        )

    async def ancestors(self, pid: int) -> tuple[int, ...]:
        """See HolderProcesses."""
        return self.ancestors_of.get(pid, ())

    def follow(self, holders: Mapping[str, Holder]) -> None:
        """See HolderProcesses."""
        self._holders = dict(holders)

    def _with_reservation(self, process: ProcessUse) -> ProcessUse:
        """The process, attributed to the reservation of the nearest ancestor that has one."""
        pid: int | None = process.pid
        while pid is not None and not process.consumer:
            ours = (name for name, holder in self._holders.items() if _is_root(holder, pid, process.unit))
            process = replace(process, consumer=next(ours, ""))
            pid = self.parents.get(pid)
        return process

    async def read(self, only: Devices = ()) -> Reading:
        """See VramSource."""
        self.reads += 1
        is_left_out = self.is_resting and not only and bool(self._last)
        indices = [index for index in range(len(self._devices)) if not only or index in only]
        indices = [index for index in indices if not (is_left_out and self._has_driver(index))]
        self.is_open = self.is_open or any(map(self._has_driver, indices))
        self.device_reads.update(indices)
        begun, begun_usec = self._clock.monotonic(), self._clock.realtime_usec()
        await self._take_time()
        error = "nvml-hangs: a driver call has not returned" if self._hang_sec is not None else self._error
        samples = (self._sample(index, error) for index in indices)
        read = {one.index: replace(one, taken_at=begun, sampled_usec=begun_usec) for one in samples}
        self._last |= read
        shown = self._last if is_left_out else read
        return Reading(tuple(shown[index] for index in sorted(shown)), error)

    def _has_driver(self, index: int) -> bool:
        """Whether a device keeps a driver open; where no source is set, all of them do."""
        return str(self._devices[index].properties.get("source", "nvml")) == "nvml"

    def rest_driver(self, *, resting: bool) -> None:
        """See Driver."""
        self.is_resting = resting

    async def release_driver(self) -> None:
        """See Driver."""
        if self.release_error:
            raise DriverHangs(self.release_error)
        self.releases += 1
        self.is_open = False

    async def power(self) -> DriverPower:
        """See Driver."""
        self.power_looks += 1
        return self.power_state

    def reopen(self) -> None:
        """See VramSource."""
        self.renewals += 1

    def retry(self) -> None:
        """See Retrying."""
        if self._error and self._hang_sec is None:
            self.reopen()

    async def close(self) -> None:
        """See VramSource."""
        self.closed = True

    async def _take_time(self) -> None:
        duration_sec = self.read_sec
        if self._hang_sec is not None:
            duration_sec, self._hang_sec = self._hang_sec, 0.0
        if duration_sec:
            await self._clock.sleep(duration_sec)

    def _sample(self, index: int, error: str) -> Sample:
        device = self._devices[index]
        blank = Sample(index, f"FAKE-{index}", f"Fake GPU {index}", self.name, None, None, None)
        if error or device.error:
            return replace(blank, lost=device.lost and not error, error=error or device.error)
        processes = self._processes(index)
        held_mib = device.unnamed_mib + sum(process.used_mib or 0 for process in processes)
        used_mib = min(device.total_mib - device.reserved_mib, held_mib)
        read = replace(
            blank,
            total_mib=device.total_mib,
            used_mib=used_mib,
            free_mib=device.total_mib - device.reserved_mib - used_mib,
            processes=processes,
            attributed=self.attributed and all(process.used_mib is not None for process in processes),
            attributable=frozenset({*self.attributable, *self._holders}),
            telemetry=NO_TELEMETRY if index else self.telemetry,
        )
        return replace(read, **device.properties)

    def _processes(self, index: int) -> tuple[ProcessUse, ...]:
        now = self._clock.monotonic()
        self._held = [held for held in self._held if held.seen_until > now]
        seen = (
            self._with_reservation(held.process)
            for held in self._held
            if held.device == index and held.seen_from <= now
        )
        return tuple(sorted(seen, key=lambda process: process.pid))


def _is_root(holder: Holder, pid: int, unit: str) -> bool:
    return unit == holder.unit if holder.unit else pid == holder.process.pid
