"""Commands that make systemd, D-Bus and the account database use the files that were written or removed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from gpumand.host_setup.init_system import no_systemd

TIMEOUT_SEC = 120.0
ACCOUNTS = tuple(f"/etc/sysusers.d/{name}.conf" for name in ("gpumand", "gpumand-gateway", "gpumand-fleet"))
SYSTEM_ONLY = ("gpumand-gateway.socket", "gpumand-gateway.service", "gpumand-fleet.service", "gpumand-dmem.service")
UNITS = ("gpumand.socket", "gpumand-containers.socket", "gpumand.service")
RELOAD_BUS = ("call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig")
Command = tuple[str, ...]


class CommandFailed(Exception):
    """A command failed; the message is one line."""


def start_commands(*, user: bool) -> list[Command]:
    """What to run after the files were written."""
    manager = _manager(user=user)
    accounts: list[Command] = [] if user else [("systemd-sysusers", *ACCOUNTS)]
    return [
        *accounts,
        _reload_bus(user=user),
        (*manager, "daemon-reload"),
        (*manager, "enable", *UNITS),
        # An update restarts the daemon; leases are kept over a restart.
        (*manager, "restart", *UNITS),
    ]


def stop_commands(*, user: bool) -> list[Command]:
    """What to run before the files are removed."""
    manager = _manager(user=user)
    optional = ("gpumand-notify.service", *(() if user else SYSTEM_ONLY))
    return [(*manager, "disable", "--now", *UNITS, *optional)]


def after_removal_commands(*, user: bool) -> list[Command]:
    """What to run after the files were removed."""
    return [(*_manager(user=user), "daemon-reload"), _reload_bus(user=user)]


def is_systemd_running(*, user: bool) -> bool:
    """Whether there is a manager to ask; there is none in a container image or a chroot."""
    return user or no_systemd() is None


def run(command: Sequence[str], *, timeout_sec: float | None = TIMEOUT_SEC) -> None:
    """Run a command, for at most ``timeout_sec``. Raises CommandFailed with the first line of its errors."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_sec, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        line = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
        raise CommandFailed(f"{' '.join(command)}: {line}")


def _manager(*, user: bool) -> Command:
    return ("systemctl", "--user") if user else ("systemctl",)


def _reload_bus(*, user: bool) -> Command:
    return ("busctl", "--quiet", "--user" if user else "--system", *RELOAD_BUS)
