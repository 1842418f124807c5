"""A systemd container over an overlay of this system, or of another tree: start, commands inside, and reliable cleanup.

``systemd-nspawn`` runs without machined, in a private mount namespace and in a cgroup of its own. ``boot.sh`` watches
its standard input: when that ends, because it was closed or because the test run died, it kills the cgroup.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BOOT_SCRIPT = Path(__file__).with_name("boot.sh")
REPOSITORY = Path(__file__).resolve().parents[2]
THIS_SYSTEM = Path("/")
CAP_SYS_ADMIN = 21
TOOLS = ("systemd-nspawn", "nsenter", "unshare", "setpriv", "findmnt")
PREFIX = "gpumand-e2e-"
SYSTEM_CALLS = "bpf"  # without it, IPAddressDeny= and DeviceAllow= silently have no effect
AS_USER = (
    'user=$1 && shift && exec setpriv --pdeathsig KILL --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"'
)


def why_not() -> str:
    """Return why no container can be booted here, in one line; "" if one can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/etc/debian_version").exists():
        return "needs Debian"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (packages systemd-container and util-linux)"
    if not _may_mount():
        return "needs the right to mount (CAP_SYS_ADMIN)"
    return ""


def _may_mount() -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return match is not None and bool(int(match[1], 16) >> CAP_SYS_ADMIN & 1)


class Container:
    """One booted container."""

    _numbers = itertools.count()

    def __init__(self, base: Path = THIS_SYSTEM, system_calls: str = SYSTEM_CALLS) -> None:
        """Prepare the container without starting it.

        Args:
            base: the root folder to boot; nothing is written into it. The checkout is at its own path inside.
            system_calls: system calls that systemd-nspawn permits inside in addition to its own list.
        """
        self.base = base
        self._system_calls = system_calls
        self.name = f"{PREFIX}{os.getpid()}-{next(self._numbers)}"
        self.leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def boot(self, deadline_sec: float = 60) -> float:
        """Boot, and return the seconds that passed until systemd reported that startup is complete.

        Raises:
            RuntimeError: it did not boot; the message contains the console output.
        """
        began = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        atexit.register(self.kill)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(f"\0{self.name}")
            self._nspawn = self._spawn()
            try:
                self._wait_for_ready(notify, began + deadline_sec)
            except RuntimeError:
                self.kill()
                raise
        return time.monotonic() - began

    def _spawn(self) -> subprocess.Popen[bytes]:
        private_mounts = ["unshare", "--mount", "--propagation", "private", "--"]
        options = [
            *("--boot", "--quiet", "--register=no", "--keep-unit", "--private-network", "--notify-ready=yes"),
            *("--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            f"--system-call-filter={self._system_calls}",
            f"--machine={self.name}",
            *([] if self._shows_checkout else [f"--bind-ro={REPOSITORY}"]),
        ]
        with self._console.open("wb") as console:
            return subprocess.Popen(
                [*private_mounts, BOOT_SCRIPT, self.base, self._folder, self.name, *options],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": f"@{self.name}"},
            )

    @property
    def _shows_checkout(self) -> bool:
        """Whether the checkout is part of the booted system; nspawn puts a tmpfs over /tmp."""
        return self.base == THIS_SYSTEM and not REPOSITORY.is_relative_to("/tmp")

    @property
    def _console(self) -> Path:
        return self._folder / "console"

    def _wait_for_ready(self, notify: socket.socket, deadline: float) -> None:
        notify.settimeout(0.2)
        while time.monotonic() < deadline and self.alive:
            try:
                message = notify.recv(4096).decode(errors="replace")
            except TimeoutError:
                continue
            leader = re.search(r"^X_NSPAWN_LEADER_PID=(\d+)$", message, re.MULTILINE)
            self.leader = int(leader[1]) if leader else self.leader
            if self.leader and "READY=1" in message.splitlines():
                return
        raise RuntimeError(f"the container did not boot:\n{self.console()}")

    @property
    def alive(self) -> bool:
        """Whether systemd-nspawn still runs."""
        return self._nspawn is not None and self._nspawn.poll() is None

    def console(self) -> str:
        """The output of boot.sh, systemd-nspawn and the console."""
        return self._console.read_text(encoding="utf-8", errors="replace") if self._console.exists() else ""

    def command(self, argv: Sequence[str], user: str = "", cgroup: str = "") -> list[str]:
        """Return the command line for this host that runs ``argv`` inside.

        Args:
            argv: the command and its arguments.
            user: a user's name inside; "" = root.
            cgroup: path below the container's own /sys/fs/cgroup that the command joins, so that it is known inside
                as part of that unit; "" = it stays outside the container's tree.
        """
        join: list[str] = []
        if cgroup:
            procs = f"/proc/{self.leader}/root/sys/fs/cgroup/{cgroup}/cgroup.procs"
            join = ["/bin/sh", "-c", 'echo $$ > "$1" && shift && exec "$@"', "sh", procs]
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        # Without the death signal, a command outlives the nsenter that was killed for its timeout.
        if not user:
            return [*join, *enter, "setpriv", "--pdeathsig", "KILL", "--", *argv]
        return [*join, *enter, "/bin/sh", "-c", AS_USER, "sh", user, *argv]

    def kill(self, deadline_sec: float = 15) -> None:
        """Kill the container at once, in any state; safe to call again.

        Raises:
            RuntimeError: processes or mounts are left.
        """
        atexit.unregister(self.kill)
        if self._nspawn is None or self._nspawn.stdin is None:
            return
        self._nspawn.stdin.close()
        self._nspawn.wait(timeout=deadline_sec)
        deadline = time.monotonic() + deadline_sec
        while self._folder.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"left behind: {self._folder}, cgroup {self.name}")
            time.sleep(0.01)
        self._nspawn = None
