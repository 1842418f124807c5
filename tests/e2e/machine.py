"""The machine that e2e tests work on: commands, files, units and the journal of a booted container."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.e2e.container import SYSTEM_CALLS, THIS_SYSTEM, Container

SHELL_UNIT = "e2e-shell.service"
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root")
Found = TypeVar("Found")


class Machine:
    """A booted systemd with a system bus. Commands run inside as part of the unit ``e2e-shell.service``."""

    def __init__(self, base: Path = THIS_SYSTEM, system_calls: str = SYSTEM_CALLS) -> None:
        """Prepare the machine without booting it.

        Args:
            base: the root folder of the booted system, see ``tests.e2e.trees``; this system when not given.
            system_calls: system calls that are permitted inside, see ``Container``.
        """
        self.container = Container(base, system_calls)
        self.boot_sec = 0.0
        self._cgroup = ""

    def boot(self) -> None:
        """Boot it and wait until systemd has settled. Raises RuntimeError if it does not."""
        self.boot_sec = self.container.boot()
        state = self.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip()
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--no-legend", "--plain"], check=False).stdout
            raise RuntimeError(f"the container is {state}:\n{failed}\n{self.journal()}")
        self.run(["systemd-run", "--quiet", f"--unit={SHELL_UNIT}", "--service-type=exec", "sleep", "infinity"])
        self._cgroup = f"system.slice/{SHELL_UNIT}"

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "",
        check: bool = True,
        stdin: str = "",
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return its output.

        Args:
            argv: the command and its arguments.
            user: user's name; "" = root.
            check: fail the test if the exit status is not 0.
            stdin: text for its standard input.
            timeout: seconds until it is killed.

        Raises:
            AssertionError: it failed and ``check`` is set; the message contains its output.
            subprocess.TimeoutExpired: it took too long.
        """
        command = self.container.command(["env", "-i", *ENVIRONMENT, *argv], user, self._cgroup)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, argv: Sequence[str], *, user: str = "") -> subprocess.Popen[str]:
        """Start a command inside and do not wait for it; the caller ends it."""
        command = self.container.command(["env", "-i", *ENVIRONMENT, *argv], user, self._cgroup)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def write_file(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file and create its folders."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self.run(["sh", "-c", script, "sh", path, mode], stdin=text)

    def remove(self, *paths: str) -> None:
        """Remove files and folders, if they exist."""
        self.run(["rm", "-rf", "--", *paths])

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 60) -> str:
        """Run systemctl and return its output."""
        return self.run(["systemctl", *arguments], check=check, timeout=timeout).stdout

    def show(self, unit: str, prop: str) -> str:
        """Return one property of a unit, as ``systemctl show`` prints it."""
        return self.systemctl("show", "--value", f"--property={prop}", unit).strip()

    def main_pid(self, unit: str) -> int:
        """Return the pid inside the machine of a unit's main process; 0 if it has none."""
        return int(self.show(unit, "MainPID"))

    def pids(self, unit: str) -> set[int]:
        """Return the pids inside the machine of all processes of a unit; empty if it has none."""
        cgroup = self.show(unit, "ControlGroup")
        return {int(pid) for pid in self.run(["cat", f"/sys/fs/cgroup{cgroup}/cgroup.procs"]).stdout.split()}

    def alive(self, pids: set[int]) -> set[int]:
        """Return those of the processes that still run."""
        running = self.run(["ps", "-e", "--no-headers", "--format=pid,state"]).stdout.splitlines()
        return pids & {int(pid) for pid, state in map(str.split, running) if state != "Z"}

    def journal(self, unit: str = "", since_usec: int = 0, lines: int = 300) -> str:
        """Return the last lines of the journal, of all units or of one."""
        only = [f"--unit={unit}"] if unit else []
        since = [f"--since=@{since_usec // 1_000_000}"] if since_usec else []
        argv = ["journalctl", "--no-pager", "--output=short-precise", f"--lines={lines}", *only, *since]
        return self.run(argv, check=False).stdout

    def wait_until(self, found: Callable[[], Found], what: str, deadline_sec: float = 30) -> Found:
        """Call ``found`` until it returns a true value, and return that.

        Raises:
            AssertionError: it did not in time; the message contains ``what`` and the last value.
        """
        deadline = time.monotonic() + deadline_sec
        while not (answer := found()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {deadline_sec} s: {what} (last answer: {answer!r})")
            time.sleep(0.02)
        return answer

    def kill(self) -> None:
        """Kill the machine at once; nothing of it is left."""
        self.container.kill()


def close(process: subprocess.Popen[str]) -> None:
    """End a process started by ``start``, even if other processes still use its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
