"""Values of a host scan: devices, units, processes and listening ports."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpumand.discovery.containers import FoundContainer


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket.

    Attributes:
        address: its IP address.
        port: its port number.
        pid: the process that owns it; 0 when the caller may not see the owner.
    """

    address: str
    port: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that listens, holds VRAM, or is the main process of a unit.

    Attributes:
        pid: process id.
        name: short name.
        command: command line, words joined by blanks; "" when it cannot be read.
        unit: the systemd unit that it runs in, or "".
        is_main: systemd reports it as the main process of its unit, or it started the others outside a service.
        used_mib: VRAM that it holds in MiB, by device index; None when the driver does not report the amount.
        container: the key of its container, see FoundContainer; "" outside of containers.
        ancestors: its parent process, the parent of that one, and so on.
    """

    pid: int
    name: str = ""
    command: str = ""
    unit: str = ""
    is_main: bool = False
    used_mib: dict[int, int | None] = field(default_factory=dict)
    container: str = ""
    ancestors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU; ``total_mib`` is None when its size is unknown, and ``integrated`` marks a GPU in the processor."""

    index: int
    name: str
    total_mib: int | None
    integrated: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """The result of a host scan.

    Attributes:
        units: description of each running service unit, by unit name.
        processes: processes by pid.
        listeners: listening TCP sockets.
        devices: GPUs that the driver reports.
        driver_error: why the driver reports none, in one line; "" when it does.
        units_error: why systemd could not be queried, in one line; "" when it could.
        has_hidden_ports: some listeners have an unknown owner, because their processes could not be inspected.
        is_root: the scan ran as root, so that repeating it as root would not show more.
        containers: running containers.
        engines_error: why a container engine could not be asked, in one line; "" when all could.
    """

    units: dict[str, str] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    devices: tuple[Device, ...] = ()
    driver_error: str = ""
    units_error: str = ""
    has_hidden_ports: bool = False
    is_root: bool = False
    containers: tuple[FoundContainer, ...] = ()
    engines_error: str = ""
