"""What the fake NVML answers: dataclasses here, ``key value`` lines in the file.

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


@dataclass
class ShimDevice:
    """One device.

    Attributes:
        uuid, name: as the driver says them.
        total_mib, reserved_mib: sizes.
        used_mib: None = what its processes hold, each counted once.
        free_mib: None = total - reserved - used.
        lost: every call about it answers 15.
        handle_error, memory_error, memory_v2_error, compute_error, graphics_error, mps_error: what those calls answer.
        compute, graphics, mps: pid -> MiB, None = not available.
        processes_in: a directory of files named after pids that hold MiB (``gpumand.testing.announce`` writes them);
            those of living processes are in the compute list too.
        mig: -1 = it cannot be cut, 0 = it is not, 1 = it is, into its ``instances``.
        mig_slots: how many MIG devices it may have.
        mig_error: what asking for that answers.
    """

    uuid: str
    name: str = "NVIDIA Shim"
    total_mib: int = 24576
    reserved_mib: int = 0
    used_mib: int | None = None
    free_mib: int | None = None
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
    mig: int = -1
    mig_slots: int = 7
    mig_error: int = 0
    instances: list[ShimInstance] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The lines about this device."""
        yield f"device {self.uuid}"
        yield f"name {self.name}"
        yield f"total {self.total_mib}"
        yield f"reserved {self.reserved_mib}"
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
        for key in ("mig", "mig_slots", "mig_error"):
            yield f"{key} {getattr(self, key)}"
        for one in self.instances:
            yield from one.lines()


@dataclass
class ShimInstance(ShimDevice):
    """A MIG device: a compute instance of a GPU.

    Attributes:
        slot: its index among the GPU's MIG devices.
        instance: the number of the GPU instance that it is in.
        instance_error: what asking for that answers.
        of_other: pid -> MiB of processes in its compute list that are in another instance.
    """

    slot: int = 0
    instance: int = 1
    instance_error: int = 0
    of_other: dict[int, int] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The lines about this instance."""
        yield f"mig_device {self.uuid}"
        for key in ("slot", "instance", "instance_error"):
            yield f"{key} {getattr(self, key)}"
        _, *others = super().lines()
        yield from (line for line in others if not line.startswith("mig"))
        for pid, mib in self.of_other.items():
            yield f"compute_of_other {pid} {mib}"


@dataclass
class Shim:
    """The whole library.

    Attributes:
        devices: by index.
        init_error: what init answers.
        call_error: what every other call answers.
        kernel: version of the loaded kernel module; a library of another version refuses to start (18).
        generation: change it to have the driver reloaded under a running process: calls answer 1 until a new init.
        hang_in: which calls hang: "init", "count", "handle", "memory", "list", "process_name", or "any".
        hang_while: they hang while this file exists; the first to do so makes a file named after it plus ".entered".
        grow: so many process lists outgrow their array between two calls.
        process_names: pid -> what nvmlSystemGetProcessName says; others are not found.
    """

    devices: list[ShimDevice] = field(default_factory=list)
    init_error: int = 0
    call_error: int = 0
    kernel: int = 1
    generation: int = 0
    hang_in: str = "any"
    hang_while: Path | None = None
    grow: int = 0
    process_names: dict[int, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The lines of the file; a hang comes first, so that it precedes every other answer."""
        if self.hang_while is not None:
            yield f"hang {self.hang_in} {self.hang_while}"
        for key in ("init_error", "call_error", "kernel", "generation", "grow"):
            yield f"{key} {getattr(self, key)}"
        for pid, name in self.process_names.items():
            yield f"process_name {pid} {name}"
        for device in self.devices:
            yield from device.lines()

    def write(self, path: Path) -> None:
        """Replace the file; a call under way sees the old answers or the new ones, never a mixture."""
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")
        temporary.replace(path)
