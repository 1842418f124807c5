"""Docker and Podman inside a machine: packages, their start, an image, and containers that hold simulated VRAM.

The engines run nested in a container, which takes some settings. Their containers are real: processes in cgroups of
their own (``docker-<id>.scope``, ``libpod-<id>.scope``), with the restart policies and the API of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.client import Client
from tests.e2e.container import REPOSITORY
from tests.e2e.host import VRAM_DIR, Host
from tests.e2e.installation import ENVIRONMENT
from tests.e2e.machine import Machine

PACKAGES = ("docker.io", "podman", "crun", "netavark", "iptables", "uidmap", "dbus-user-session", "libpam-systemd")
SYSTEM_CALLS = "bpf @keyring"
"""runc gives each container a session keyring."""

IMAGE, IMAGE_FILE = "e2e", "/srv/image.tar"
LINKS = ("bin", "lib", "lib64", "sbin")
MAKE_IMAGE = f"""
set -eu
mkdir -p /srv/image/usr /srv/image/etc /srv/image/tmp && cd /srv/image
for name in {" ".join(LINKS)}; do ln -s "usr/$name" "$name"; done
tar --create --file={IMAGE_FILE} .
docker import {IMAGE_FILE} {IMAGE}
podman import {IMAGE_FILE} {IMAGE}
"""
CONTAINERS_CONF = """
[containers]
# The machine has no pids controller where its host uses version 1 of cgroups.
pids_limit = 0
keyring = false
[engine]
# crun raises RLIMIT_MEMLOCK, for which the machine lacks CAP_SYS_RESOURCE on some hosts.
runtime = "runc"
"""
STORAGE_VFS = '[storage]\ndriver = "vfs"\n'
STORAGE_CONF = """
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
NAMES = ("docker", "podman")


def start(machine: Machine) -> None:
    """Start both engines and import the image. Its programs are those of the machine, which each container mounts."""
    machine.write_file("/etc/containers/containers.conf", CONTAINERS_CONF)
    machine.write_file("/etc/containers/storage.conf", STORAGE_CONF)
    machine.systemctl("start", "docker.service", "podman.socket")
    machine.run(["sh", "-c", MAKE_IMAGE])


def command(name: str, mib: int, *arguments: str, folder: str = VRAM_DIR) -> list[str]:
    """Return the command inside a container that holds memory while it runs."""
    consumer = ["--name", name, "--mib", str(mib), "--simulator-dir", folder, "--loaded-at-start", "--anonymous"]
    return [
        "/usr/bin/env",
        *ENVIRONMENT.split(),
        "/usr/bin/python3",
        "-m",
        "gpumand.testing.consumer",
        *consumer,
        *arguments,
    ]


def options(name: str, *more: str, folder: str = VRAM_DIR) -> list[str]:
    """Return the options of a container: announcements name pids of the machine, so it has no pid namespace."""
    volumes = [f"{path}:{path}:{mode}" for path, mode in (("/usr", "ro"), (str(REPOSITORY), "ro"), (folder, "rw"))]
    volumes = [part for volume in volumes for part in ("--volume", volume)]
    return ["--name", name, "--pid=host", "--network=host", *volumes, *more]


@dataclass
class EngineHost(Host):
    """A host with engines; ``clean`` also removes their containers."""

    def create(self, engine: str, name: str, mib: int, *more: str, argv: tuple[str, ...] = ()) -> None:
        """Create a container that holds memory while it runs, without starting it."""
        self.machine.run(["mkdir", "--parents", "--mode=1777", VRAM_DIR])
        argv = argv or tuple(command(name, mib))
        self.machine.run([engine, "create", *options(name, *more), IMAGE, *argv])

    def contained(self, engine: str, name: str, mib: int, *lines: str, create: tuple[str, ...] = ()) -> None:
        """Create a container and configure it as a consumer without a unit."""
        self.create(engine, name, mib, *create)
        self.consumer(name, mib, f'container = "{name}"', *lines, unit=False)

    def is_running(self, engine: str, name: str) -> bool:
        """Whether the engine says that a container runs."""
        argv = [engine, "inspect", "--type=container", "--format={{.State.Running}}", name]
        return self.machine.run(argv, check=False).stdout.strip() == "true"

    def clean(self) -> None:
        """Remove the containers too, after the units that run them."""
        super().clean()
        self.machine.run(["sh", "-c", "docker rm --force $(docker ps --all --quiet)"], check=False)
        self.machine.run(["podman", "rm", "--force", "--all", "--time=0"], check=False)
        self.machine.systemctl("stop", "gpumand-containers.service", check=False)


def engine_host(machine: Machine) -> EngineHost:
    """A host without consumers on this machine."""
    machine.systemctl("start", "gpumand-containers.socket")
    return EngineHost(machine, Client(machine))
