"""Values that the doctor's checks work on: facts about the host, the daemon and its consumers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.cli.packages import Packages, install_command
from gpumand.config.problems import ConfigProblem
from gpumand.discovery.containers import FoundContainer
from gpumand.discovery.daemons import OtherDaemon
from gpumand.domain.consumer import BusyReport, ConsumerSpec, Health, Settings
from gpumand.host_setup.init_system import NoSystemd

Entry = Mapping[str, Any]

GROUP = "gpumand"
"""Members of this group may acquire without a password (org.gpumand1.rules)."""

DAEMON_USER = "_gpumand"
"""The user that the system service runs as."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that runs gpumanctl.

    Attributes:
        uid: the effective uid.
        name: the user name; "" when the uid has none.
        is_member: this session is a member of the group gpumand.
        is_listed: the user is listed in the group, so that the next session will be a member.
        group_exists: the group gpumand exists.
    """

    uid: int
    name: str = ""
    is_member: bool = False
    is_listed: bool = False
    group_exists: bool = False


@dataclass(frozen=True, slots=True)
class Bus:
    """The D-Bus bus, and gpumand's name on it.

    Attributes:
        kind: "system", "session", or an address.
        error: why the connection failed; "" when it did not.
        is_running: gpumand's name has an owner.
        is_activatable: a call to the name would start gpumand.
        owner_uid: uid of the process that owns the name; None when unknown.
        daemon_uid: uid of the user that the service runs as; None when there is no such user.
        denied: the error when the policy of the bus refuses calls to gpumand; "" when it allows them.
        has_systemd: systemd is on this bus.
        has_polkit: polkit is on this bus, or a call would start it.
        no_systemd: why systemd does not run on this host, which explains the error; None if it runs.
    """

    kind: str = "system"
    error: str = ""
    is_running: bool = False
    is_activatable: bool = False
    owner_uid: int | None = None
    daemon_uid: int | None = None
    denied: str = ""
    has_systemd: bool = False
    has_polkit: bool = False
    no_systemd: NoSystemd | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration files of the daemon, as the caller can read them.

    Attributes:
        files: the existing files.
        changed_usec: modification time of the newest file, in microseconds of CLOCK_REALTIME.
        changed_file: the newest file.
        settings: the parsed configuration; None when it has errors or cannot be read.
        problems: the errors in the files.
        unreadable: files that the caller may not read.
    """

    files: tuple[Path, ...] = ()
    changed_usec: int = 0
    changed_file: str = ""
    settings: Settings | None = None
    problems: tuple[ConfigProblem, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """A systemd unit; the attributes are named after the unit's D-Bus properties.

    ``name`` is the configured name, ``id`` the unit's primary name: they differ when the configured name is an alias.
    ``control_group`` is "" while it does not run, and None where the manager does not report it.
    """

    name: str
    id: str = ""
    load_state: str = ""
    active_state: str = ""
    unit_file_state: str = ""
    fragment_path: str = ""
    need_daemon_reload: bool = False
    triggered_by: tuple[str, ...] = ()
    upheld_by: tuple[str, ...] = ()
    restart: str = ""
    kill_mode: str = ""
    result: str = ""
    ip_allow: tuple[str, ...] = ()
    ip_deny: tuple[str, ...] = ()
    control_group: str | None = None


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """The running containers of the host, as the caller can see them.

    Attributes:
        found: the containers.
        presets: key of a container -> name of the preset that fits it.
        error: why an engine could not be asked; "" when all could.
        listening: TCP ports at which processes of the host listen.
        helper: the unit of the helper that starts and stops containers; None where systemd could not be asked.
        engines: units that offer the API of an engine, by name; empty where systemd could not be asked.
    """

    found: tuple[FoundContainer, ...] = ()
    presets: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    listening: frozenset[int] = frozenset()
    helper: UnitFacts | None = None
    engines: Mapping[str, UnitFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """A device node: its path, permission bits and group."""

    path: str
    mode: int
    group: str


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver.

    Attributes:
        error: why NVML does not work, as "keyword: one line"; "" when it does.
        devices: number of GPUs that it lists.
        kernel_version: version of the loaded kernel module; "" when none is loaded.
        library_version: version of the installed library, from its file name; "" when unknown.
        nodes: the device nodes in /dev.
    """

    error: str = ""
    devices: int = 0
    kernel_version: str = ""
    library_version: str = ""
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class UnreadCard:
    """A card with a driver that gpumand cannot read: its PCI address, the driver, and its PCI device id."""

    bdf: str
    driver: str
    device: int | None


@dataclass(frozen=True, slots=True)
class Dmem:
    """The dmem controller of the host.

    Attributes:
        regions: the registered regions of VRAM.
        is_enabled: whether it counts the memory of units.
        uncounted: units whose memory may be charged elsewhere.
        nvidia_mib: unit -> MiB on NVIDIA cards.
    """

    regions: tuple[str, ...] = ()
    is_enabled: bool = False
    uncounted: frozenset[str] = frozenset()
    nvidia_mib: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_only_nvidia(self) -> bool:
        """Whether all cards are NVIDIA's, whose processes are known without the controller."""
        return all(region.startswith("nvidia/") for region in self.regions)


@dataclass(frozen=True, slots=True)
class GatewayListener:
    """A listener in the configuration of the gateway: its name, its consumer, and its addresses as host and port."""

    name: str
    consumer: str
    addresses: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """The gateway and its configuration.

    Attributes:
        file: the configuration file.
        problems: its errors, one line each.
        listeners: its listeners.
        open: the addresses at which the running gateway listens, by listener; None when it does not answer.
        error: why it does not answer; "" when it does.
        sockets: the listening sockets of this host, as address, port, and command of the process ("" when unknown).
        remote: its configured addresses that other hosts can reach, those of its own listener included.
    """

    file: str
    problems: tuple[str, ...] = ()
    listeners: tuple[GatewayListener, ...] = ()
    open: Mapping[str, tuple[str, ...]] | None = None
    error: str = ""
    sockets: tuple[tuple[str, int, str], ...] = ()
    remote: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts of one run; None means not readable, or not looked at.

    Attributes:
        caller: the user that runs gpumanctl.
        bus: the bus and gpumand's name on it.
        user: gpumanctl was started with ``--user``.
        config: the configuration files.
        status: the daemon's status; None when it does not run or does not answer.
        status_error: why there is no status, although the daemon runs; "" otherwise.
        learned: measured values by consumer.
        failed_evictions: the last failed evictions, as history entries.
        service: gpumand.service itself.
        gateway_unit: gpumand-gateway.service; None where systemd could not be asked.
        units: units of consumers, by configured name.
        units_error: why systemd could not be queried; "" when it could.
        missing_files: files of the package that are missing.
        other_daemons: other gpumand processes on this host.
        driver: NVIDIA's driver; None when it is not the source of VRAM readings.
        unread_cards: cards with a driver that shows no memory to gpumand.
        dmem: the cgroup controller that counts VRAM; None where the kernel or the drivers do not have it.
        routes: answers of the health routes, by consumer.
        busy: answers of the busy routes, by consumer; only of those with a loaded model.
        listeners: for consumers with a unit, the cgroup of each socket that listens at their url; "" where unknown.
        containers: running containers; None when they were not looked for.
        gateway: the gateway; None when it is not configured.
        packages: what apt says about the packages that findings may name.
    """

    caller: Caller
    bus: Bus = field(default_factory=Bus)
    user: bool = False
    config: Configuration = field(default_factory=Configuration)
    status: Entry | None = None
    status_error: str = ""
    learned: Mapping[str, Entry] = field(default_factory=dict)
    failed_evictions: tuple[Entry, ...] = ()
    service: UnitFacts | None = None
    gateway_unit: UnitFacts | None = None
    units: Mapping[str, UnitFacts] = field(default_factory=dict)
    units_error: str = ""
    missing_files: tuple[str, ...] = ()
    other_daemons: tuple[OtherDaemon, ...] = ()
    driver: Driver | None = None
    unread_cards: tuple[UnreadCard, ...] | None = None
    dmem: Dmem | None = None
    routes: Mapping[str, Health] = field(default_factory=dict)
    busy: Mapping[str, BusyReport] = field(default_factory=dict)
    listeners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    containers: ContainerFacts | None = None
    gateway: GatewayFacts | None = None
    packages: Packages = field(default_factory=Packages)

    @property
    def is_system(self) -> bool:
        """Whether this is about the system's gpumand, which has a package, polkit and a user of its own."""
        return self.bus.kind == "system"

    @property
    def consumers(self) -> Mapping[str, ConsumerSpec]:
        """Consumers from the configuration files, by name; empty when the files cannot be read."""
        return self.config.settings.consumers if self.config.settings else {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Consumers from the daemon's status, by name; empty without a status."""
        return {str(one["name"]): one for one in self.status["consumers"]} if self.status else {}

    @property
    def unit_names(self) -> Mapping[str, str]:
        """Unit by consumer, from the files; from the daemon's status when the files cannot be read."""
        if self.consumers:
            return {name: spec.unit for name, spec in self.consumers.items() if spec.unit}
        return {name: str(one["unit"]) for name, one in self.entries.items() if one.get("unit")}

    def root(self, command: str) -> str:
        """A command that needs root, with ``sudo`` when the caller is not root."""
        return command if self.caller.uid == 0 or self.user else f"sudo {command}"

    def install(self, package: str, *, again: bool = False) -> str:
        """A command that installs a package, from where this host can get it; ``again`` replaces its files."""
        command = install_command(package, self.packages, prefix=self.root(""), again=again)
        return command.replace("gpumanctl setup", self.ctl("setup"))

    def ctl(self, words: str) -> str:
        """A gpumanctl command for the examined gpumand."""
        return f"gpumanctl {'--user ' if self.user else ''}{words}"

    def ctl_as_root(self, words: str) -> str:
        """A gpumanctl command for the examined gpumand that needs root."""
        return self.root(self.ctl(words))

    def systemctl(self, words: str) -> str:
        """A systemctl command for the manager that runs the examined gpumand, with ``sudo`` when that is needed."""
        return f"systemctl --user {words}" if self.user else self.root(f"systemctl {words}")
