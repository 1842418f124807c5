"""gpumand installed as its users install it: by its Debian package."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.e2e.container import REPOSITORY
from tests.e2e.machine import Machine

UNITS = ("gpumand.service", "gpumand.socket")
ENVIRONMENT = f"PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1"


def module_command(module: str) -> str:
    """Return the command that runs a module of this checkout with the system's Python, for units of test programs."""
    return f"/usr/bin/env {ENVIRONMENT} /usr/bin/python3 -m {module}"


def install(machine: Machine, deb: Path) -> None:
    """Install the package, and stop the daemon, which it starts: a test starts it with a configuration of its own."""
    # Images of Debian prevent packages from starting services; and indexing manuals takes longer than everything else.
    machine.remove("/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update")
    shutil.copy(deb, f"/proc/{machine.container.leader}/root/root/{deb.name}")
    machine.run(
        ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-unsafe-io", "--install", f"/root/{deb.name}"]
    )
    machine.remove(f"/root/{deb.name}")
    assert machine.systemctl("is-enabled", *UNITS).split() == ["enabled", "enabled"]
    activity = machine.systemctl("is-active", *UNITS, check=False).split()
    assert activity == ["active", "active"], machine.journal(UNITS[0])
    machine.systemctl("stop", *UNITS)
