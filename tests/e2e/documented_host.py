"""A host as a page of the documentation assumes it: its services as units, gpumand, the gateway and a user."""

from __future__ import annotations

import subprocess
import tomllib
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from gpumand.config.presets import preset
from tests.blocks import Block, Step
from tests.documented_commands import SIZES, TOTAL_MIB, Ids, Page, command_of, problem
from tests.e2e.host import CONFIG, DAEMON, UNIT_DIR, VRAM_DIR
from tests.e2e.installation import module_command
from tests.e2e.machine import Machine

USER = "alice"
GATEWAY = ("gpumand-gateway.socket", "gpumand-gateway.service")
USERS_FILES = {"hello.wav": "RIFF", "workflow.json": '{"prompt": {}}'}
"""Files that the documentation assumes in the folder of the user."""
BASE = f"""
[scheduler]
settle_timeout_sec = 5
health_interval_sec = 1
min_turn_sec = 0
[gpu]
source = "simulated"
sample_interval_sec = 0.2
simulated_total_mib = [{TOTAL_MIB}]
simulated_dir = "{VRAM_DIR}"
"""
DEFAULT = "\n".join(
    f'[consumers.{name}]\nunit = "{name}.service"\nvram_resident_mib = {mib}' for name, mib in SIZES.items()
)


@dataclass
class Service:
    """A service that the page names: a unit, or a server that no unit of its own name runs.

    Attributes:
        unit: the unit that runs it.
        preset: its preset; "" without one.
        port: its port; 0 without one.
        models: VRAM in MiB by name.
    """

    unit: str
    preset: str
    port: int
    models: dict[str, int] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command line of the unit."""
        models = " ".join(f"'--model={name}={mib}'" for name, mib in self.models.items())
        program = module_command("tests.documented_services")
        return f"{program} --preset={self.preset} --port={self.port} --simulator-dir={VRAM_DIR} {models}"


def services_of(page: Page) -> list[Service]:
    """Return the services of the consumers that the page configures; those that it need not configure otherwise."""
    tables: dict[str, Any] = {}
    for path, text in page.files.items():
        if path.endswith(".toml"):
            tables |= tomllib.loads(text).get("consumers", {})
    found: dict[str, Service] = {}
    for name, keys in (tables or tomllib.loads(DEFAULT)["consumers"]).items():
        unit = keys.get("unit", f"server-of-{name}.service")
        service = found.setdefault(unit, Service(unit, keys.get("preset", ""), _port(keys)))
        size = keys.get("vram_resident_mib", "auto")
        service.models[keys.get("model", name)] = keys.get("vram_guess_mib", 1024) if size == "auto" else size
    return list(found.values())


def _port(keys: dict[str, Any]) -> int:
    default = preset(keys["preset"]).document.table["consumer"].get("url", "") if "preset" in keys else ""
    return urlsplit(keys.get("url", default)).port or 0


@dataclass
class DocumentedHost:
    """The host of one page."""

    machine: Machine
    page: Page
    _ids: Ids = field(default_factory=Ids)

    def start(self) -> None:
        """Start the services and gpumand, as they are before the first command of the page."""
        machine = self.machine
        machine.run(["mkdir", "--parents", "--mode=1777", VRAM_DIR])
        services = services_of(self.page)
        for one in services:
            text = f"[Service]\nType=exec\nTimeoutStopSec=3\nRestart=on-failure\nExecStart={one.command}\n"
            machine.write_file(f"{UNIT_DIR}/{one.unit}", text)
        own = any("[consumers." in text for text in self.page.files.values())
        machine.write_file(CONFIG, BASE if own else BASE + DEFAULT)
        machine.systemctl("daemon-reload")
        # Servers that hold their models while they run are started by gpumand.
        routed = [one for one in services if one.port and own]
        machine.systemctl("start", *(one.unit for one in routed)) if routed else None
        for one in routed:
            machine.wait_until(partial(self._listens, one.port), f"{one.unit} listens", deadline_sec=30)
        # A late client of the page before may have started the daemon again, with the configuration of that page.
        machine.systemctl("stop", DAEMON, *GATEWAY, check=False)
        machine.systemctl("start", DAEMON, *GATEWAY)

    def _listens(self, port: int) -> bool:
        return self.machine.run(["bash", "-c", f": < /dev/tcp/127.0.0.1/{port}"], check=False).returncode == 0

    def write(self, block: Block) -> None:
        """Write the file that a block shows. Programs of the services are replaced by those of the test."""
        self.machine.write_file(block.file, block.text)
        for one in services_of(self.page):
            if "ExecStart=" in block.text and f"/{one.unit}" in block.file:
                text = f"[Service]\nExecStart=\nExecStart={one.command}\n"
                self.machine.write_file(f"{UNIT_DIR}/{one.unit}.d/zz-program-of-the-test.conf", text)

    def run(self, block: Block, step: Step) -> str:
        """Run a step as its user; returns how the outcome differs from the page, or ""."""
        command = self.machine.container.command
        user = "" if step.is_root else USER
        shell = ["env", "-i", *self._environment(step), "bash", "-euc", 'cd && eval "$1"', "bash"]
        shell.append(self._ids.used_in(command_of(block, step)))
        done = subprocess.run(
            command(shell, user, "system.slice/e2e-shell.service"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        if found := problem(block, step, done.returncode, done.stdout):
            return f"{block.place}: {found}"
        self._ids.learn(step, done.stdout)
        return ""

    def _environment(self, step: Step) -> list[str]:
        home = "/root" if step.is_root else f"/home/{USER}"
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # A shell replaces $USER before it starts sudo.
        return [path, "LANG=C.UTF-8", f"HOME={home}", f"USER={USER}", "COLUMNS=100"]

    def clean(self) -> None:
        """Stop everything that the page has started, and remove its files."""
        machine = self.machine
        units = [one.unit for one in services_of(self.page)]
        machine.systemctl("stop", DAEMON, *GATEWAY, "gpumand-notify.service", *units, check=False)
        machine.systemctl("stop", "gpumand-gateway-*.socket", check=False)
        drop_ins = [f"{UNIT_DIR}/{unit}.d" for unit in units]
        files = [f"{UNIT_DIR}/{unit}" for unit in units]
        machine.remove(
            "/etc/gpumand", "/run/gpumand", "/var/lib/gpumand", VRAM_DIR, *files, *drop_ins, *self.page.files
        )
        machine.remove("/var/lib/gpumand-gateway/lists", "/var/lib/gpumand-gateway/jobs.json")
        machine.systemctl("daemon-reload")
        machine.systemctl("reset-failed")


def prepare(machine: Machine) -> None:
    """Create the user of the documentation with some files, and ``sudo`` for commands that root runs already."""
    machine.run(["useradd", "--create-home", "--shell=/bin/bash", "--groups=gpumand", USER])
    for name, text in USERS_FILES.items():
        machine.write_file(f"/home/{USER}/{name}", text)
    machine.write_file("/usr/local/bin/sudo", '#!/bin/sh\nexec "$@"\n', "0755")


def restore(machine: Machine) -> None:
    """Take back what ``prepare`` and the commands of the pages have done."""
    machine.systemctl("enable", DAEMON, "gpumand.socket")
    machine.systemctl("disable", "gpumand-notify.service")
    machine.run(["userdel", "--remove", USER], check=False)
    machine.remove("/usr/local/bin/sudo")
