"""A network of hosts in namespaces: a switch, and one cable for each host that a test can cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count

import pytest

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("etcd") is None or shutil.which("curl") is None,
    reason="needs root, ip (iproute2), curl and etcd (etcd-server), for hosts in network namespaces",
)

_networks = count()


def require_namespaces() -> None:
    """Skip the test where the kernel or the container does not allow network namespaces, although this is root."""
    network = Network(1)
    try:
        network.create()
    except RuntimeError as error:
        pytest.skip(f"network namespaces are not possible here: {error}")
    finally:
        network.close()


def run(*command: str) -> str:
    """Run a command and return its output. Raises RuntimeError with its error output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Namespaces of hosts, numbered from 1. The network of this machine is not touched.

    Args:
        size: number of hosts.
    """

    def __init__(self, size: int) -> None:
        self._prefix = f"gf{os.getpid()}-{next(_networks)}"
        self._size = size

    @property
    def _switch(self) -> str:
        return f"{self._prefix}-sw"

    def namespace(self, host: int) -> str:
        """Name of the namespace of a host."""
        return f"{self._prefix}-{host}"

    def address(self, host: int) -> str:
        """IP address of a host."""
        return f"10.213.0.{host}"

    def command(self, host: int, *command: str) -> list[str]:
        """A command that runs on a host, as the process that is started."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def create(self) -> None:
        """Create everything. Raises RuntimeError where the kernel or the container does not allow it."""
        run("ip", "netns", "add", self._switch)
        self._on_switch("ip", "link", "add", "bridge", "type", "bridge")
        self._on_switch("ip", "link", "set", "bridge", "up")
        for host in range(1, self._size + 1):
            self._add(host)

    def _add(self, host: int) -> None:
        name, port = self.namespace(host), f"port{host}"
        run("ip", "netns", "add", name)
        cable = ("type", "veth", "peer", "name", "cable", "netns", name)
        self._on_switch("ip", "link", "add", port, *cable)
        self._on_switch("ip", "link", "set", port, "master", "bridge", "up")
        inside = ("ip", "-n", name)
        run(*inside, "addr", "add", f"{self.address(host)}/24", "dev", "cable")
        run(*inside, "link", "set", "cable", "up")
        run(*inside, "link", "set", "lo", "up")

    def cut(self, host: int) -> None:
        """Lose all packets to and from a host. Its own side of the cable does not notice."""
        self._on_switch("bridge", "link", "set", "dev", f"port{host}", "state", "0")

    def heal(self, host: int) -> None:
        """Pass packets again."""
        self._on_switch("bridge", "link", "set", "dev", f"port{host}", "state", "3")

    def close(self) -> None:
        """Remove everything; processes that still run there keep their namespace until they end."""
        for name in (self._switch, *(self.namespace(host) for host in range(1, self._size + 1))):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=60)

    def _on_switch(self, *command: str) -> None:
        run("ip", "netns", "exec", self._switch, *command)
