"""Answers of the fake NVML: dataclasses in Python, ``key value`` lines in the text file.

    shim = Shim(devices=[ShimDevice("GPU-1", total_mib=24576, compute={4711: 8192})])
    shim.write(path)                                   # atomic; seen at the next NVML call
    shim.devices[0].lost = True; shim.write(path)      # and so on

Errors are NVML return codes: 1 uninitialized, 2 invalid argument, 3 not supported, 4 no permission, 9 driver not
loaded, 13 function not found, 15 GPU is lost, 18 library/kernel mismatch, 25 argument version mismatch, 999 unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SENSORS = ("utilization", "temperature", "temperature_limit", "power", "power_limit")


@dataclass
class ShimDevice:
    """One device.

    Attributes:
        uuid, name: as reported by the driver.
        total_mib, reserved_mib: sizes in MiB.
        used_mib: None = the sum of its processes, each counted once.
        free_mib: None = total - reserved - used.
        partition_mib: limit of a memory partition, which only version 2 of the memory information shows; 0 = none.
        lost: every call for the device returns 15.
        handle_error, memory_error, memory_v2_error, compute_error, graphics_error, mps_error: return codes of calls.
        compute, graphics, mps: pid -> MiB, None = not available.
        processes_in: a directory of files named after pids that contain MiB
            (``gpumand.testing.vram_announcement`` writes them); living processes are added to the compute list.
        utilization, temperature, temperature_limit: percent and degrees Celsius; -1 = not supported.
        power, power_limit: milliwatts; -1 = not supported.
        sensor_error: return code of the calls for these five.
        mig: -1 = MIG is not supported, 0 = disabled, 1 = enabled, with ``instances``.
        mig_slots: maximum number of MIG devices.
        mig_error: return code of the query of the MIG mode.
    """

    uuid: str
    name: str = "NVIDIA Shim"
    total_mib: int = 24576
    reserved_mib: int = 0
    used_mib: int | None = None
    free_mib: int | None = None
    partition_mib: int = 0
    lost: bool = False
    handle_error: int = 0
    memory_error: int = 0
    memory_v2_error: int = 0
    compute_error: int = 0
    graphics_error: int = 0
    mps_error: int = 3
    compute: dict[int, int | None] = field(default_factory=dict)
    graphics: dict[int, int | None] = field(default_factory=dict)
    mps: dict[int, int | None] = field(default_factory=dict)
    processes_in: Path | None = None
    utilization: int = -1
    temperature: int = -1
    temperature_limit: int = -1
    power: int = -1
    power_limit: int = -1
    sensor_error: int = 0
    mig: int = -1
    mig_slots: int = 7
    mig_error: int = 0
    instances: list[ShimInstance] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Return the lines for this device."""
        yield f"device {self.uuid}"
        yield f"name {self.name}"
        yield f"total {self.total_mib}"
        yield f"reserved {self.reserved_mib}"
        yield f"partition {self.partition_mib}"
        for key, mib in (("used", self.used_mib), ("free", self.free_mib)):
            if mib is not None:
                yield f"{key} {mib}"
        yield f"lost {int(self.lost)}"
        for key in ("handle", "memory", "memory_v2", "compute", "graphics", "mps"):
            yield f"{key}_error {getattr(self, f'{key}_error')}"
        for key in ("compute", "graphics", "mps"):
            for pid, mib in getattr(self, key).items():
                yield f"{key} {pid} {-1 if mib is None else mib}"
        if self.processes_in is not None:
            yield f"processes_in {self.processes_in}"
        for key in (*SENSORS, "sensor_error"):
            yield f"{key} {getattr(self, key)}"
        for key in ("mig", "mig_slots", "mig_error"):
            yield f"{key} {getattr(self, key)}"
        for one in self.instances:
            yield from one.lines()


@dataclass
class ShimInstance(ShimDevice):
    """A MIG device: a compute instance of a GPU.

    Attributes:
        slot: index among the MIG devices of the GPU.
        instance: number of its GPU instance.
        instance_error: return code of the query of that number.
        of_other: pid -> MiB of processes of another instance that are in its compute list.
    """

    slot: int = 0
    instance: int = 1
    instance_error: int = 0
    of_other: dict[int, int] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Return the lines for this instance."""
        yield f"mig_device {self.uuid}"
        for key in ("slot", "instance", "instance_error"):
            yield f"{key} {getattr(self, key)}"
        _, *others = super().lines()
        yield from (line for line in others if not line.startswith("mig"))
        for pid, mib in self.of_other.items():
            yield f"compute_of_other {pid} {mib}"


@dataclass
class Shim:
    """All answers of the library.

    Attributes:
        devices: devices by index.
        init_error: return code of init.
        call_error: return code of every other call.
        kernel: version of the loaded kernel module; a library of another version fails to initialise (18).
        generation: a change simulates a driver reload: calls of running processes return 1 until the next init.
        hang_in: the calls that hang: "init", "count", "handle", "memory", "list", "process_name", or "any".
        hang_while: calls hang while this file exists; the first one creates a file with the suffix ".entered".
        grow: number of process lists that outgrow their array between two calls.
        wide_lists: version 3 of the process lists has larger entries than the API says, as in driver 535.54.
        process_names: pid -> result of nvmlSystemGetProcessName; other pids are not found.
    """

    devices: list[ShimDevice] = field(default_factory=list)
    init_error: int = 0
    call_error: int = 0
    kernel: int = 1
    generation: int = 0
    hang_in: str = "any"
    hang_while: Path | None = None
    grow: int = 0
    wide_lists: bool = False
    process_names: dict[int, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Return the lines of the file; a hang is in the first line, so that it applies before other answers."""
        if self.hang_while is not None:
            yield f"hang {self.hang_in} {self.hang_while}"
        for key in ("init_error", "call_error", "kernel", "generation", "grow"):
            yield f"{key} {getattr(self, key)}"
        yield f"wide_lists {int(self.wide_lists)}"
        for pid, name in self.process_names.items():
            yield f"process_name {pid} {name}"
        for device in self.devices:
            yield from device.lines()

    def write(self, path: Path) -> None:
        """Replace the file; a running call reads the old or the new answers, never a mixture."""
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")
        temporary.replace(path)
