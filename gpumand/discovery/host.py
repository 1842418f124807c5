"""What was found on a host."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port that somebody listens at.

    Attributes:
        address: as an IP address.
        port: its number.
        pid: who listens; 0 where that could not be seen.
    """

    address: str
    port: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that listens, holds VRAM, or is a unit's main one.

    Attributes:
        pid: its id.
        name: its short name.
        command: its command line, words joined by blanks; "" where it cannot be seen.
        unit: the unit it runs in, or "".
        is_main: systemd calls it the main process of its unit.
        used_mib: MiB of VRAM that it holds, by index of the device; None where the driver does not say how many.
    """

    pid: int
    name: str = ""
    command: str = ""
    unit: str = ""
    is_main: bool = False
    used_mib: dict[int, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU; ``total_mib`` None = unknown."""

    index: int
    name: str
    total_mib: int | None


@dataclass(frozen=True, slots=True)
class Host:
    """All of it.

    Attributes:
        units: units of type service that run, with their descriptions.
        processes: by pid.
        listeners: TCP ports that are listened at.
        devices: what the driver knows.
        driver_error: why it knows nothing, in one line; "" when it does.
        units_error: why systemd could not be asked, in one line; "" when it could.
        unseen: processes of others could not be looked into, so that who listens is not known of every port.
        as_root: it was root who looked, to whom there is no more to see.
    """

    units: dict[str, str] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    devices: tuple[Device, ...] = ()
    driver_error: str = ""
    units_error: str = ""
    unseen: bool = False
    as_root: bool = False
