"""Containers of Docker and Podman: how the configuration names them, and what an engine reports about one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

CONTAINER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,253}")
"""Names of containers as Docker and Podman accept them (``[a-zA-Z0-9][a-zA-Z0-9_.-]*``), and prefixes of ids."""

CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
"""A full container id: 64 hex digits in every engine that follows Docker."""

MIN_ID_PREFIX = 12
"""Shortest prefix of an id that names a container, as ``docker ps`` prints it; a shorter one could be a name."""


COMPOSE_SERVICE = "com.docker.compose.service"
"""The label with the service of a container of Compose."""

_COMPOSE_PREFIX = r"(?:[0-9a-f]{10,12}_){1,20}"
"""What Compose puts in front of a name while it creates a container again: ids, more of them after several failures."""


def is_renamed(name: str, wanted: str) -> bool:
    """Whether Compose gave this name to a container that should have the wanted one."""
    return name.endswith(f"_{wanted}") and re.fullmatch(_COMPOSE_PREFIX + re.escape(wanted), name) is not None


def name_in_compose(name: str) -> str:
    """The name that Compose means a container to have, without ids in front."""
    return re.sub(f"^{_COMPOSE_PREFIX}(?=.)", "", name)


class ContainerEngine(StrEnum):
    """The programs that gpumand starts and stops containers with."""

    DOCKER = "docker"
    PODMAN = "podman"


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """The name of a container in the configuration.

    Attributes:
        name: name of the container, or a prefix of its id.
        engine: the engine that has it; None = any, where the name is unambiguous.
    """

    name: str
    engine: ContainerEngine | None = None

    @classmethod
    def parse(cls, text: str) -> ContainerRef:
        """Parse ``NAME``, ``docker:NAME`` or ``podman:NAME``. Raises ValueError for anything else."""
        prefix, separator, name = text.rpartition(":")
        if separator and prefix not in tuple(ContainerEngine):
            raise ValueError(f"{prefix!r} is not a container engine: use docker: or podman:, or the name alone")
        if not CONTAINER_NAME.fullmatch(name):
            raise ValueError("a container name has letters, digits, dots, dashes and underscores, up to 254")
        return cls(name, ContainerEngine(prefix) if separator else None)

    def __str__(self) -> str:
        """The text that ``parse`` accepts."""
        return f"{self.engine}:{self.name}" if self.engine else self.name

    def matches(self, engine: str, container_id: str, name: str) -> bool:
        """Whether a container is meant; a name counts before an id prefix, which has at least 12 digits.

        A container is also meant where Compose has put ids in front of its name.
        """
        if self.engine is not None and engine and self.engine != engine:
            return False
        if self.name == name or is_renamed(name, self.name):
            return True
        return len(self.name) >= MIN_ID_PREFIX and container_id.startswith(self.name)


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of a container that the engine publishes on the host.

    Attributes:
        host_address: address on the host; "" = all addresses.
        host_port: TCP port on the host.
        container_port: TCP port in the container.
    """

    host_address: str
    host_port: int
    container_port: int


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What an engine reports about a container.

    Attributes:
        engine: "docker" or "podman".
        id: full id, 64 hex digits; another one after the container was created again.
        name: its name, without the leading slash of Docker's API.
        running: its main process runs.
        pid: its main process on the host; 0 while it does not run.
        restart_policy: "no", "always", "unless-stopped", "on-failure", or "" where unknown.
        image: the image as the container was created from it, such as "ollama/ollama:latest".
        ports: its published TCP ports.
        addresses: its addresses in networks of the engine; () with the network of the host.
        network_mode: "host", "bridge", "slirp4netns", "pasta", the name of a network …; "" where unknown.
        exit_code: exit code of its last run; None while it runs or where unknown.
        labels: labels that gpumand reads, such as those of ``docker compose`` and quadlet, by key.
        status: "created", "running", "paused", "restarting", "removing", "exited", "dead", or a word of Podman for one
            of these; "" where unknown.
        started_at: when its current or last run began, as the engine writes it (RFC 3339); "" where unknown.
        restarts: how often its restart policy has started it again.
        oom_killed: its last run ended because memory was exhausted.
        error: the engine's reason why its last start failed; "" without one.
    """

    engine: str
    id: str
    name: str
    running: bool
    pid: int = 0
    restart_policy: str = ""
    image: str = ""
    ports: tuple[PublishedPort, ...] = ()
    addresses: tuple[str, ...] = ()
    network_mode: str = ""
    exit_code: int | None = None
    labels: tuple[tuple[str, str], ...] = field(default=())
    status: str = ""
    started_at: str = ""
    restarts: int = 0
    oom_killed: bool = False
    error: str = ""

    @property
    def run_id(self) -> str:
        """Identifies its current or last run: another one after a restart, and after it was created again."""
        return f"{self.id[:MIN_ID_PREFIX]} {self.started_at}"

    def label(self, key: str) -> str:
        """The value of a label; "" without one."""
        return dict(self.labels).get(key, "")


READ_LABELS = (
    "com.docker.compose.project",
    COMPOSE_SERVICE,
    "com.docker.compose.project.working_dir",
    "io.podman.compose.project",
    "PODMAN_SYSTEMD_UNIT",
)
"""Labels that a ContainerState contains: where compose and quadlet note what started the container."""

SERVICE_PREFIX = "container "
"""Begins the name by which a container stands where a unit could stand; names of units have no spaces."""


def service_of(container: str) -> str:
    """The name of a container where a unit could stand, such as "container comfyui"; "" for no container."""
    return f"{SERVICE_PREFIX}{container}" if container else ""


def container_of(service: str) -> str:
    """The container that such a name stands for; "" for a unit."""
    return service.removeprefix(SERVICE_PREFIX) if service.startswith(SERVICE_PREFIX) else ""
