"""The ``[gpu]`` table of the configuration, and the options of single devices, ``[gpu.device."NAME"]``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class PoolChoice(StrEnum):
    """Which memory of an integrated GPU counts.

    AUTO: what the driver uses. VRAM: the part that the firmware sets aside. GTT: host RAM.
    """

    AUTO = "auto"
    VRAM = "vram"
    GTT = "gtt"


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Options of one device.

    Attributes:
        pool: which memory counts.
        reserve_mib: memory that stays free; None = 0, and 4096 where the memory is host RAM.
        ignore: the device is not used and not listed.
    """

    pool: PoolChoice = PoolChoice.AUTO
    reserve_mib: int | None = None
    ignore: bool = False


DEFAULT_OPTIONS = DeviceOptions()
NamedOptions = Sequence[tuple[str, DeviceOptions]]
"""Options with the device's name: a UUID or a PCI address. An index may become another device's."""


def options_of(names: Iterable[str], options: NamedOptions) -> DeviceOptions:
    """The options of a device with these names; the defaults if there are none."""
    known = set(names)
    return next((one for name, one in options if name in known), DEFAULT_OPTIONS)


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """The ``[gpu]`` table of the configuration.

    Attributes:
        source: "auto", "nvml", "amdgpu", "xe", "simulated" or "none"; several in the order of their devices' indices.
        sample_interval_sec: interval between VRAM readings while the daemon is idle.
        idle_release_sec: idle time after which the driver is closed so that the card can sleep; 0 = never.
        total_mib: size of device 0, for when no source can report it; None when not configured.
        simulated_total_mib: sizes of the simulated devices, by index.
        simulated_dir: directory in which consumers of the simulator announce their MiB; "" for the default.
        device: options of single devices, with the name of the device.
    """

    source: str | tuple[str, ...] = "auto"
    sample_interval_sec: float = 2.0
    total_mib: int | None = None
    simulated_total_mib: tuple[int, ...] = (24564,)
    simulated_dir: str = ""
    idle_release_sec: float = 60.0
    device: NamedOptions = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def uses_real_gpus(self) -> bool:
        """Whether the GPUs of the host are read, which several daemons must not manage at once."""
        return not {"simulated", "none"}.issuperset(self.sources)
