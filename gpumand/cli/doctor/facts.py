"""What is known of this host, the daemon and its consumers, as far as the caller may see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.config.problems import ConfigProblem
from gpumand.discovery.daemons import OtherDaemon
from gpumand.domain.consumer import ConsumerSpec, Health, Settings

Entry = Mapping[str, Any]

GROUP = "gpumand"
"""Whose members may acquire without a password (org.gpumand1.rules)."""

DAEMON_USER = "_gpumand"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        uid: the effective one.
        name: of the user.
        is_member: of the group gpumand, in this session.
        is_listed: as a member of it, so that the next login will be one.
        group_exists: there is such a group.
    """

    uid: int
    name: str = ""
    is_member: bool = False
    is_listed: bool = False
    group_exists: bool = False


@dataclass(frozen=True, slots=True)
class Bus:
    """The bus, and gpumand's name on it.

    Attributes:
        kind: "system", "session", or an address.
        error: why it cannot be connected to; "" when it can.
        is_running: somebody owns gpumand's name.
        is_activatable: a call would start it.
        owner_uid: who owns the name; None when unknown.
        daemon_uid: uid of the user that the service runs as; None where there is no such user.
        denied: the bus's policy does not let us call it: what it said.
        is_systemd_there: systemd is on it.
        is_polkit_there: polkit is on it, or would be started.
    """

    kind: str = "system"
    error: str = ""
    is_running: bool = False
    is_activatable: bool = False
    owner_uid: int | None = None
    daemon_uid: int | None = None
    denied: str = ""
    is_systemd_there: bool = False
    is_polkit_there: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """The files that the daemon reads, read by us.

    Attributes:
        files: those that there are.
        changed_usec: of the newest of them, CLOCK_REALTIME.
        changed_file: which that is.
        settings: what they say; None where that cannot be told.
        problems: what is wrong in them.
        unreadable: those that we may not read.
    """

    files: tuple[Path, ...] = ()
    changed_usec: int = 0
    changed_file: str = ""
    settings: Settings | None = None
    problems: tuple[ConfigProblem, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """A unit, as systemd tells of it; attributes named as its properties are.

    ``name`` is the name that was asked for, ``id`` the unit's own.
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
    wanted_by: tuple[str, ...] = ()
    restart: str = ""
    kill_mode: str = ""
    result: str = ""


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
        error: what NVML says to us, "word: one line"; "" when it works.
        devices: how many it lists.
        kernel_version: of the loaded module; "" when none is.
        library_version: of the installed library, by the name of its file; "" when it cannot be told.
        nodes: what is in /dev.
    """

    error: str = ""
    devices: int = 0
    kernel_version: str = ""
    library_version: str = ""
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it; None = could not be seen, or was not looked at."""

    caller: Caller
    bus: Bus = field(default_factory=Bus)
    user: bool = False
    config: Configuration = field(default_factory=Configuration)
    status: Entry | None = None
    status_error: str = ""
    learned: Mapping[str, Entry] = field(default_factory=dict)
    failed_evictions: tuple[Entry, ...] = ()
    service: UnitFacts | None = None
    units: Mapping[str, UnitFacts] = field(default_factory=dict)
    units_error: str = ""
    missing_files: tuple[str, ...] = ()
    others: tuple[OtherDaemon, ...] = ()
    driver: Driver | None = None
    routes: Mapping[str, Health] = field(default_factory=dict)

    @property
    def is_system(self) -> bool:
        """Whether it is the system's gpumand: with a package, polkit and a user of its own."""
        return self.bus.kind == "system"

    @property
    def consumers(self) -> Mapping[str, ConsumerSpec]:
        """As the files have them; empty where they cannot be read."""
        return self.config.settings.consumers if self.config.settings else {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Consumers as the daemon has them, by name."""
        return {str(one["name"]): one for one in self.status["consumers"]} if self.status else {}

    @property
    def unit_names(self) -> Mapping[str, str]:
        """Unit of each consumer that is one, from the files, or where those cannot be read from the daemon."""
        if self.consumers:
            return {name: spec.unit for name, spec in self.consumers.items() if spec.unit}
        return {name: str(one["unit"]) for name, one in self.entries.items() if one.get("unit")}

    def root(self, command: str) -> str:
        """A command that only root may run, as this caller has to type it."""
        return command if self.caller.uid == 0 or self.user else f"sudo {command}"

    def ctl(self, words: str) -> str:
        """A command of gpumanctl to the gpumand that is meant, which anybody may give."""
        return f"gpumanctl {'--user ' if self.user else ''}{words}"

    def root_ctl(self, words: str) -> str:
        """The same, for what only root may ask for."""
        return self.root(self.ctl(words))

    def systemctl(self, words: str) -> str:
        """A command to the systemd that is meant, with the right to give it."""
        return f"systemctl --user {words}" if self.user else self.root(f"systemctl {words}")
