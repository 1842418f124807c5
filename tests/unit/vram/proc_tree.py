"""A fake /proc folder with the files that the search for containers reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- {network}/24 2 0 1
        |-- {address}
           /32 host LOCAL
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
"""


class ProcTree:
    """Writes processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        pid: int,
        cgroup: str,
        *,
        command: Sequence[str] | str = ("python3", "main.py"),
        parent: int = 1,
        started: int = 1000,
        uid: int = 0,
        address: str = "",
        name: str = "",
    ) -> None:
        """Write a process; ``cgroup`` is a path, or the whole content of its file."""
        words = command.split() if isinstance(command, str) else command
        folder = self.folder / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        comm = (name or words[0].rsplit("/", 1)[-1])[:15]
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "stat").write_text(f"{pid} ({comm}) S {parent} {pid} {pid} {'0 ' * 15}{started} 0 0\n")
        (folder / "cmdline").write_text("\0".join(words) + "\0")
        (folder / "status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (folder / "cgroup").write_text(cgroup if ":" in cgroup[:2] or not cgroup else f"0::{cgroup}\n")
        if address:
            (folder / "net").mkdir(exist_ok=True)
            network = address.rsplit(".", 1)[0] + ".0"
            (folder / "net" / "fib_trie").write_text(FIB_TRIE.format(address=address, network=network))

    def conmon(self, pid: int, container_id: str, name: str, cgroup: str, uid: int = 0, started: int = 900) -> None:
        """Write the monitor of a container of Podman."""
        command = f"/usr/bin/conmon --api-version 1 -c {container_id} -u {container_id} -r /usr/bin/crun -n {name} -s"
        self.add(pid, cgroup, command=command, uid=uid, started=started)

    def shim(self, pid: int, container_id: str, started: int = 900) -> None:
        """Write the parent of a container of Docker."""
        command = f"/usr/bin/containerd-shim-runc-v2 -namespace moby -id {container_id} -address /run/containerd.sock"
        self.add(pid, "/system.slice/containerd.service", command=command, started=started)

    def proxy(self, pid: int, port: int, address: str, uid: int = 0) -> None:
        """Write the process that serves a published port of Docker."""
        command = f"/usr/bin/docker-proxy -proto tcp -host-ip 127.0.0.1 -host-port {port} -container-ip {address}"
        self.add(pid, "/system.slice/docker.service", command=f"{command} -container-port 80", uid=uid)
