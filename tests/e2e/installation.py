"""gpumand as a package would install it, but led into this checkout."""

from __future__ import annotations

import sys

from tests.e2e.container import REPOSITORY
from tests.e2e.machine import Machine

MODULES = {
    "/usr/bin/gpumand": "gpumand",
    "/usr/bin/gpumanctl": "gpumand.cli",
    "/usr/libexec/gpumand-unit-allowed": "gpumand.unit_allowed",
}
FILES = {
    "systemd/gpumand.service": "/usr/lib/systemd/system/gpumand.service",
    "systemd/gpumand.socket": "/usr/lib/systemd/system/gpumand.socket",
    "systemd/gpumand.catalog": "/usr/lib/systemd/catalog/gpumand.catalog",
    "dbus/org.gpumand1.conf": "/usr/share/dbus-1/system.d/org.gpumand1.conf",
    "dbus/org.gpumand1.service": "/usr/share/dbus-1/system-services/org.gpumand1.service",
    "dbus/org.gpumand1.policy": "/usr/share/polkit-1/actions/org.gpumand1.policy",
    "dbus/org.gpumand1.rules": "/usr/share/polkit-1/rules.d/org.gpumand1.rules",
    "dbus/org.gpumand1-units.rules": "/usr/share/polkit-1/rules.d/org.gpumand1-units.rules",
}
ENVIRONMENT = f"PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1"


def module_command(module: str) -> str:
    """The command that runs one of this checkout's modules, for units."""
    return f"/usr/bin/env {ENVIRONMENT} {sys.executable} -m {module}"


def install(machine: Machine) -> None:
    """Put programs, unit, bus policy and activation file where they belong, and enable the unit."""
    machine.run(["useradd", "--system", "--no-create-home", "--shell=/usr/sbin/nologin", "_gpumand"])
    for program, module in MODULES.items():
        machine.write_file(program, f'#!/bin/sh\nexec {module_command(module)} "$@"\n', mode="0755")
    for source, target in FILES.items():
        machine.write_file(target, (REPOSITORY / source).read_text(encoding="utf-8"))
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", "gpumand.service")
    machine.run(["journalctl", "--update-catalog"])
    # dbus-daemon watches its folders, but says nothing when it has read them; asked, it answers when it has.
    bus = "org.freedesktop.DBus"
    machine.run(["busctl", "call", bus, "/org/freedesktop/DBus", bus, "ReloadConfig"])
