"""A host that runs gpumand: the machine with a configuration, consumers as real units, and the daemon."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.e2e.client import Client
from tests.e2e.installation import module_command
from tests.e2e.machine import Machine

DAEMON = "gpumand.service"
CONFIG = "/etc/gpumand/gpumand.toml"
VRAM_DIR = "/run/e2e-vram"
UNIT_DIR = "/etc/systemd/system"
DROP_IN = f"/run/systemd/system/{DAEMON}.d/e2e-host.conf"
TOTAL_MIB = 24564
HEAD = f"""
[scheduler]
concurrent_leases = 0
settle_timeout_sec = 2
health_interval_sec = 1
[gpu]
source = "simulated"
sample_interval_sec = 0.2
simulated_total_mib = [{TOTAL_MIB}]
simulated_dir = "{VRAM_DIR}"
"""


@dataclass
class Host:
    """A machine that runs gpumand; ``clean`` removes everything that a test created."""

    machine: Machine
    client: Client
    _units: list[str] = field(default_factory=list)
    _config: str = HEAD

    def consumer(self, name: str, mib: int, *lines: str, unit: bool = True) -> None:
        """Configure a consumer; ``lines`` are further lines of TOML. It applies from the next start or reload on."""
        own = [f"[consumers.{name}]", f"vram_resident_mib = {mib}", *([f'unit = "{name}.service"'] if unit else [])]
        self._config += "\n".join([*own, *lines, ""])
        self.machine.write_file(CONFIG, self._config)

    def unit(self, name: str, exec_start: str, *lines: str) -> None:
        """Write a unit ``<name>.service``; ``lines`` are further lines of its ``[Service]`` section."""
        text = "\n".join(["[Service]", "Type=exec", "TimeoutStopSec=3", f"ExecStart={exec_start}", *lines, ""])
        self.machine.write_file(f"{UNIT_DIR}/{name}.service", text)
        self._units.append(f"{name}.service")
        self.machine.systemctl("daemon-reload")

    def holder(self, name: str, mib: int, *lines: str) -> None:
        """Configure a consumer that is a unit without routes: it holds its memory while it runs.

        Its memory is attributed by its unit only.
        """
        self.unit(name, holding(name, mib), *lines)
        self.consumer(name, mib)

    def server(self, name: str, mib: int, port: int, *arguments: str) -> None:
        """Configure a consumer that is a unit with routes to load and unload."""
        self.unit(name, f"{process(name, mib)} --port={port} {' '.join(arguments)}")
        self.consumer(
            name,
            mib,
            f'url = "http://127.0.0.1:{port}"',
            'health = { path = "/health", loaded = "/model_loaded" }',
            'load = { path = "/api/admin/load" }',
            'unload = { path = "/api/admin/unload" }',
        )

    def gpu(self, *lines: str) -> None:
        """Configure other devices than the simulated one; ``lines`` are the whole ``[gpu]`` table."""
        before, _, after = self._config.partition("[gpu]")
        consumers = "[consumers." + after.partition("[consumers.")[2] if "[consumers." in after else ""
        self._config = "\n".join([f"{before}[gpu]", *lines, consumers])

    def configure(self, *lines: str) -> None:
        """Append lines of TOML to the configuration."""
        self._config += "\n".join([*lines, ""])

    def use_no_readings(self) -> None:
        """Configure no VRAM source, for servers that hold no simulated VRAM: only their answers count then."""
        self._config = self._config.replace('source = "simulated"', 'source = "none"')

    def drop_in(self, *lines: str) -> None:
        """Change the daemon's unit: ``lines`` are those of a drop-in's ``[Service]`` section."""
        self.machine.write_file(DROP_IN, "\n".join(["[Service]", *lines, ""]))
        self.machine.systemctl("daemon-reload")

    def make_vram_dir(self) -> None:
        """Create the folder of the simulated device, so that calls may start the daemon too."""
        # Otherwise the first process that announces memory creates it, unreadable for the daemon.
        self.machine.run(["mkdir", "--parents", "--mode=1777", VRAM_DIR])

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        self.make_vram_dir()
        self.machine.write_file(CONFIG, self._config)
        self.machine.systemctl("start", DAEMON)

    def clean(self) -> None:
        """Stop the daemon and all units of the test, and forget their state."""
        self.machine.systemctl("stop", DAEMON, check=False)
        self.machine.systemctl("stop", *self._units, check=False) if self._units else None
        paths = [f"{UNIT_DIR}/{unit}" for unit in self._units]
        self.machine.remove(*paths, "/etc/gpumand", "/run/gpumand", "/var/lib/gpumand", VRAM_DIR)
        if self.machine.run(["test", "-e", DROP_IN], check=False).returncode == 0:
            self.machine.remove(DROP_IN)
            self.machine.systemctl("daemon-reload")
        self.machine.systemctl("reset-failed")


def process(name: str, mib: int) -> str:
    """Return the command of a consumer's process."""
    return f"{module_command('gpumand.testing.consumer')} --name={name} --mib={mib} --simulator-dir={VRAM_DIR}"


def holding(name: str, mib: int) -> str:
    """Return the command of a process that holds memory while it runs and does not name its consumer."""
    return f"{process(name, mib)} --loaded-at-start --anonymous"
