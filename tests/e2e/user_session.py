"""A user of the machine with a user manager and a gpumand in user mode."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.client import MANAGER, NAME, ROOT, Client, plain
from tests.e2e.host import TOTAL_MIB
from tests.e2e.installation import module_command
from tests.e2e.machine import Machine

USER = "e2e-user"
HOME = f"/home/{USER}"
CONFIG = f"{HOME}/.config/gpumand/gpumand.toml"
HEAD = f"""
[scheduler]
concurrent_leases = 0
settle_timeout_sec = 2
health_interval_sec = 1
[gpu]
source = "simulated"
sample_interval_sec = 0.2
simulated_total_mib = [{TOTAL_MIB}]
"""
ROUTES = """
health = { path = "/health", loaded = "/model_loaded" }
load = { path = "/api/admin/load" }
unload = { path = "/api/admin/unload" }
"""


class UserMachine(Machine):
    """The machine from the view of the user: commands run as the user, units are those of the user manager.

    It uses the container of a machine that is booted already.
    """

    def __init__(self, machine: Machine, uid: int) -> None:
        self.container = machine.container
        self.boot_sec = machine.boot_sec
        self._cgroup = machine._cgroup
        self.runtime = f"/run/user/{uid}"
        self.uid = uid

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = USER,
        check: bool = True,
        stdin: str = "",
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user without a session, as cron does."""
        return super().run(self.with_session(argv), user=user, check=check, stdin=stdin, timeout=timeout)

    def start(self, argv: Sequence[str], *, user: str = USER) -> subprocess.Popen[str]:
        """Start a command as the user and do not wait for it; the caller ends it."""
        return super().start(self.with_session(argv), user=user)

    def with_session(self, argv: Sequence[str]) -> list[str]:
        """Return a command with the environment variables of a login session."""
        bus = f"DBUS_SESSION_BUS_ADDRESS=unix:path={self.runtime}/bus"
        return ["env", f"HOME={HOME}", f"XDG_RUNTIME_DIR={self.runtime}", bus, *argv]

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 60) -> str:
        """Run systemctl --user and return its output."""
        return self.run(["systemctl", "--user", *arguments], check=check, timeout=timeout).stdout


class UserClient(Client):
    """Calls to the gpumand of the user."""

    def call(self, method: str, signature: str = "", *arguments: str, user: str = "") -> list[Any]:
        """Call a method with busctl and return its reply as plain values. Raises AssertionError if it is refused."""
        argv = ["busctl", "--user", "--json=short", "--timeout=40", "call", NAME, ROOT, MANAGER, method]
        done = self._machine.run([*argv, *([signature] if signature else []), *arguments], user=USER, timeout=50)
        reply: list[Any] = plain(json.loads(done.stdout)) if done.stdout.strip() else []
        return reply


@dataclass
class UserSession:
    """The counterpart of ``Host`` for user mode.

    Attributes:
        machine: from the view of the user.
        client: calls on the session bus.
    """

    machine: UserMachine
    client: UserClient
    _units: list[str] = field(default_factory=list)
    _config: str = HEAD

    @classmethod
    def begin(cls, system: Machine) -> UserSession:
        """Create the user and start the user manager without a login."""
        system.run(["useradd", "--create-home", f"--home-dir={HOME}", USER])
        uid = int(system.run(["id", "--user", USER]).stdout)
        system.run(["loginctl", "enable-linger", USER])
        system.systemctl("start", f"user@{uid}.service")
        machine = UserMachine(system, uid)
        machine.wait_until(
            lambda: machine.systemctl("is-active", "default.target", check=False).strip() == "active",
            "the user's systemd has started",
        )
        return cls(machine, UserClient(machine))

    @property
    def simulator(self) -> str:
        """Return the folder in which the user's consumers announce their memory."""
        return f"{self.machine.runtime}/gpumand-simulated"

    def server(self, name: str, mib: int, port: int) -> None:
        """Configure a consumer that is a user unit with routes to load and unload."""
        self._consumer(name, mib, f"--port={port}", f'url = "http://127.0.0.1:{port}"{ROUTES}')

    def holder(self, name: str, mib: int) -> None:
        """Configure a consumer that is a user unit and holds its memory while it runs."""
        self._consumer(name, mib, "--loaded-at-start --anonymous", "")

    def _consumer(self, name: str, mib: int, how: str, routes: str) -> None:
        command = f"{module_command('gpumand.testing.consumer')} --name={name} --mib={mib}"
        text = f"[Service]\nType=exec\nTimeoutStopSec=3\nExecStart={command} --simulator-dir={self.simulator} {how}\n"
        self.machine.write_file(f"{HOME}/.config/systemd/user/{name}.service", text)
        self._units.append(f"{name}.service")
        self._config += f'[consumers.{name}]\nvram_resident_mib = {mib}\nunit = "{name}.service"\n{routes}\n'
        self.configure()
        self.machine.systemctl("daemon-reload")

    def add(self, text: str) -> None:
        """Append TOML to the configuration."""
        self._config += text
        self.configure()

    def configure(self) -> None:
        """Write the configuration."""
        self.machine.write_file(CONFIG, self._config)

    def clean(self) -> None:
        """Stop the daemon and all units, and remove the configuration."""
        self.machine.systemctl("stop", "gpumand.socket", "gpumand.service", *self._units, check=False)
        self.machine.remove(f"{HOME}/.config", f"{HOME}/.local", self.simulator)
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("reset-failed")
