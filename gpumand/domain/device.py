"""Devices and samples: what is known of a GPU's memory at one moment.

Unknown is not zero: a figure nobody could read is ``None``, and arithmetic on it is the caller's decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Devices = tuple[int, ...]
"""Indices of devices that are taken together, ascending: nearly always one, () = none is known."""


def devices_text(devices: Devices) -> str:
    """Devices as text: ``0``, ``0,1``, "" for none."""
    return ",".join(map(str, devices))


def devices_of(text: str) -> Devices:
    """What ``devices_text`` made; what is no index is left out."""
    return tuple(sorted({int(part) for part in text.split(",") if part.isascii() and part.isdigit()}))


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process that holds memory on a device.

    Attributes:
        pid: process id in the daemon's pid namespace.
        used_mib: MiB it holds on this device; None where the driver does not say.
        name: short command name, for people.
        unit: the systemd unit it runs in, or "".
        consumer: the consumer it belongs to, or "" for a foreign process.
        uid: whose process it is; None where that cannot be told.
        user: that user's name, or "".
    """

    pid: int
    used_mib: int | None
    name: str = ""
    unit: str = ""
    consumer: str = ""
    uid: int | None = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of one device.

    Attributes:
        index: NVML index, the ``<index>`` of the object path.
        uuid: the driver's UUID, stable over reboots.
        name: product name.
        source: "nvml", "simulated" or "none".
        total_mib, used_mib, free_mib: None when unknown.
        processes: who holds memory, as far as the source says; one entry a pid.
        attributed: True when the process list is complete and every figure in it is known.
        attributable: consumers whose processes would have been recognised had they been listed, so that for them, on
            an attributed sample, "not listed" means "holds nothing". One that is no unit is never among them.
        taken_at: monotonic seconds at which the reading began.
        sampled_usec: the same moment as CLOCK_REALTIME microseconds, for people.
        lost: the driver says that the device is gone for good (GPU is lost): nothing can be loaded on it.
        error: why figures are missing, in one line; "" when all is well.
    """

    index: int
    uuid: str
    name: str
    source: str
    total_mib: int | None
    used_mib: int | None
    free_mib: int | None
    processes: tuple[ProcessUse, ...] = ()
    attributed: bool = False
    attributable: frozenset[str] = frozenset()
    taken_at: float = 0.0
    sampled_usec: int = 0
    lost: bool = False
    error: str = ""
    _held_mib: Mapping[str, int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Add up once what is asked for many times: a plan over many consumers looks at every one of them."""
        held: dict[str, int | None] = {}
        for process in self.processes:
            so_far = held.get(process.consumer, 0)
            unknown = process.used_mib is None or so_far is None
            held[process.consumer] = None if unknown else (so_far or 0) + (process.used_mib or 0)
        object.__setattr__(self, "_held_mib", held)

    @property
    def known(self) -> bool:
        """Whether the free figure may decide anything."""
        return self.free_mib is not None and self.total_mib is not None

    def held_by(self, consumer: str) -> int | None:
        """MiB that the consumer's processes hold here, or None where it cannot be told."""
        if consumer in self._held_mib:
            return self._held_mib[consumer]
        return 0 if self.attributed and consumer in self.attributable else None

    def with_processes(self, processes: tuple[ProcessUse, ...]) -> Sample:
        """The same sample after attribution has named units and consumers."""
        return replace(self, processes=processes)


@dataclass(frozen=True, slots=True)
class Reading:
    """All devices at one moment.

    Attributes:
        devices: one sample a device, by index. After a failure the devices seen before stay listed, each with an
            ``error`` and without figures, so that nothing that was configured against them is forgotten.
        error: what is wrong with the source as a whole, as ``word: one line`` with the word one of an open set
            ("nvml-library-missing", "driver-mismatch", "nvml-hangs" …); "" when nothing is.
    """

    devices: tuple[Sample, ...] = ()
    error: str = ""
