"""Devices and samples: the memory of a GPU at one moment, as far as it could be read.

Unknown is not zero: a value that could not be read is ``None``, and the caller decides how to calculate with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gpumand.domain.telemetry import NO_TELEMETRY, Telemetry

Devices = tuple[int, ...]
"""Indices of the devices that one consumer uses together, ascending: nearly always one; () = none is known."""

BEFORE_FIX = ". "
"""Separates the two parts of ``attribution_gap``: the reason, and what to do about it. The doctor splits it there."""


def format_devices(devices: Devices) -> str:
    """Device indices as text: ``0``, ``0,1``, "" for none."""
    return ",".join(map(str, devices))


def parse_devices(text: str) -> Devices:
    """The inverse of ``format_devices``; parts that are not an index are ignored."""
    return tuple(sorted({int(part) for part in text.split(",") if part.isascii() and part.isdigit()}))


class Pool(StrEnum):
    """What the memory of a device is.

    VRAM: memory of its own. UNIFIED: host RAM that the GPU and the programs of the host share, so that parking weights
    in host RAM frees nothing. HOST: host RAM without a GPU.
    """

    VRAM = "vram"
    UNIFIED = "unified"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A process that holds memory on a device, or a unit whose processes hold memory together.

    Attributes:
        pid: process id in the daemon's pid namespace; 0 = the unit as a whole, whose
            processes are not known one by one.
        used_mib: MiB held on this device; None where the driver does not report it.
        name: short command name, for display.
        unit: the systemd unit of the process, or "".
        consumer: the consumer that the process belongs to, or "" for a foreign process.
        shared: the consumers that share its unit, where several do; ``consumer`` is then "".
        uid: user id of the process; None where it cannot be determined.
        user: name of that user, or "".
        container: the name of its container, or the beginning of the container's id; "" outside of containers.
        cgroup: path of the cgroup of a unit as a whole; "" for a process, and where unknown.
    """

    pid: int
    used_mib: int | None
    name: str = ""
    unit: str = ""
    consumer: str = ""
    uid: int | None = None
    user: str = ""
    shared: tuple[str, ...] = ()
    container: str = ""
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of the memory of one device.

    Attributes:
        index: NVML index, the ``<index>`` of the object path; devices of further sources begin at ``SOURCE_STRIDE``.
        uuid: the UUID that the driver reports, stable over reboots.
        name: product name.
        source: "nvml", "amdgpu", "simulated" or "none".
        total_mib, used_mib, free_mib: None when unknown.
        processes: processes that hold memory, as far as the source reports them; one entry per pid, and one entry with
            pid 0 per unit whose memory is known only as a whole.
        attributed: True when the process list is complete and the memory of every process in it is known.
        attributable: consumers whose processes would have been recognised in the list, so that for them, on an
            attributed sample, "not listed" means "holds nothing". A consumer that is known by its URL only is never
            among them.
        blind: units whose memory the source could not have seen, so that their absence from the list proves nothing.
        taken_at: monotonic seconds at which the reading began.
        sampled_usec: the same moment as CLOCK_REALTIME microseconds, for display.
        lost: the device is gone for the driver, or was gone and has not been read since: nothing can be loaded on it.
        error: why values are missing, in one line; "" when none is.
        aliases: further names of the device in ``device =``: its PCI address, with and without ``PCI-``.
        pool: what its memory is.
        integrated: a GPU in the processor: consumers use it only when they name it, or when there is no other.
        attribution: how memory is attributed to units: "dmem", "kfd", "nvml" …, in falling order of coverage; "" = not
            at all.
        attribution_gap: why it is unknown which unit holds how much, although the source could report it, in one line;
            "" if there is no such reason.
        asleep: the card is suspended, or was until a few seconds ago. The driver then reports memory as free that
            comes back when the card is used.
        proves_release: whether more free memory proves that a consumer has released memory. False while the card is
            asleep, and where free memory is what the host has left, which rises and falls with every program.
        telemetry: utilisation, temperature and power, as far as they are known.
        stands_in: it stands for devices that a source has not listed yet, so that it is known of none.
        last: the last sample of the device with values, where this one has none; None = it has never been read.
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
    blind: frozenset[str] = frozenset()
    taken_at: float = 0.0
    sampled_usec: int = 0
    lost: bool = False
    error: str = ""
    aliases: tuple[str, ...] = ()
    pool: Pool = Pool.VRAM
    integrated: bool = False
    attribution: str = ""
    attribution_gap: str = ""
    asleep: bool = False
    proves_release: bool = True
    telemetry: Telemetry = NO_TELEMETRY
    stands_in: bool = False
    last: Sample | None = field(default=None, repr=False, compare=False)
    _held_mib: Mapping[str, int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Add up the memory per consumer once: a plan reads it for every consumer, again and again."""
        held: dict[str, int | None] = {}
        for process in self.processes:
            so_far = held.get(process.consumer, 0)
            unknown = process.used_mib is None or so_far is None
            held[process.consumer] = None if unknown else (so_far or 0) + (process.used_mib or 0)
            # How the memory of a shared unit is divided between its consumers is unknown.
            held |= dict.fromkeys(process.shared)
        object.__setattr__(self, "_held_mib", held)  # the dataclass is frozen

    @property
    def names(self) -> frozenset[str]:
        """The names by which the configuration can refer to the device: index, UUID, PCI address."""
        return frozenset((str(self.index), self.uuid, *self.aliases)) - {""}

    @property
    def counts_host_ram(self) -> bool:
        """Whether its memory in use contains host RAM of programs that do not use the GPU."""
        return self.pool is not Pool.VRAM and not self.proves_release

    @property
    def is_measured(self) -> bool:
        """Whether total and free memory are known, so that decisions may rely on them."""
        return self.free_mib is not None and self.total_mib is not None

    def held_by(self, consumer: str) -> int | None:
        """MiB that the processes of a consumer hold on this device, or None where that is unknown."""
        if consumer in self._held_mib:
            return self._held_mib[consumer]
        return 0 if self.attributed and consumer in self.attributable else None

    def shows(self, consumer: str) -> bool:
        """Whether the process list has a process of the consumer."""
        return consumer in self._held_mib

    def shared_mib(self, consumer: str) -> int:
        """MiB that processes of the consumer's unit hold for it and for the others in that unit."""
        return sum(process.used_mib or 0 for process in self.processes if consumer in process.shared)

    def with_processes(self, processes: tuple[ProcessUse, ...]) -> Sample:
        """A copy of the sample with other processes, for attribution to units and consumers."""
        return replace(self, processes=processes)


SOURCE_STRIDE = 10_000
"""Difference between the first indices of two sources; MIG instances have indices up to 1606."""


def default_devices(samples: Iterable[Sample]) -> Devices:
    """The devices for consumers that name none: those of the first source, without integrated GPUs.

    A consumer made for one vendor's cards must not be placed on another's, and an integrated GPU has more free memory
    (host RAM) than any card. Integrated GPUs are used where there is nothing else.
    """
    known = list(samples)
    candidates = [one.index for one in known if not one.integrated] or [one.index for one in known]
    first = min((index // SOURCE_STRIDE for index in candidates), default=0)
    return tuple(sorted(index for index in candidates if index // SOURCE_STRIDE == first))


def error_word(error: str) -> str:
    """The word at the beginning of an error: "nvml-hangs" of "nvml-hangs: a driver call has not returned"."""
    return error.partition(":")[0]


def placeholder_sample(total_mib: int | None, error: str = "") -> Sample:
    """A sample in place of an unreadable device, so that the scheduling rules always have at least one device."""
    return Sample(
        index=0,
        uuid="",
        name="",
        source="none",
        total_mib=total_mib,
        used_mib=None,
        free_mib=None,
        error=error or "no device has been read yet",
        stands_in=True,
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of all devices at one moment.

    Attributes:
        devices: one sample per device, by index. After a failure the devices of earlier readings stay listed, each
            with an ``error`` and without values, so that configuration that refers to them stays valid.
        error: failure of the source as a whole, as ``word: one line``, the word from an open set
            ("nvml-library-missing", "driver-mismatch", "nvml-hangs" …); "" when there is none.
    """

    devices: tuple[Sample, ...] = ()
    error: str = ""


def with_newer_samples(known: Iterable[Sample], newer: Iterable[Sample]) -> tuple[Sample, ...]:
    """The samples of devices, replaced by newer ones where there are, in the order of ``known``."""
    by_index = {sample.index: sample for sample in newer}
    replaced = [by_index.pop(sample.index, sample) for sample in known]
    return (*replaced, *by_index.values())
