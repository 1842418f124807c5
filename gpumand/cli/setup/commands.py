"""Commands that the wizard runs and shows: systemctl, as an administrator would type it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import GlobalOptions, command_line
from gpumand.cli.setup.dialog import Dialog

UNIT_VERBS = ("start", "stop", "restart", "try-restart")
SETUP_AGAIN = "Fix that, and run setup again"


def run_all(commands: Iterable[tuple[str, ...]], dialog: Dialog, advice: str = SETUP_AGAIN) -> None:
    """Run commands one after the other.

    Args:
        commands: the commands with their arguments.
        dialog: prints each command.
        advice: what to do after a failure, as a sentence without its end.

    Raises:
        Failure: a command failed; the ones after it were not run.
    """
    from gpumand.host_setup.services import TIMEOUT_SEC, CommandFailed, run

    for command in commands:
        dialog.say(f"run: {' '.join(command)}")
        try:
            # systemd ends the start and the stop of a unit by the limits of that unit.
            run(command, timeout_sec=None if command[1:2] and command[1] in UNIT_VERBS else TIMEOUT_SEC)
        except CommandFailed as error:
            raise Failure(ExitCode.FAILURE, f"{str(error).rstrip('.')}. {advice}") from None


def as_typed(options: GlobalOptions, *words: str) -> str:
    """A gpumanctl command that needs root, as this administrator types it: with sudo, or in a shell of root."""
    is_root_shell = os.geteuid() == 0 and not os.environ.get("SUDO_USER")
    command = command_line(options, *words)
    return command if options.user or is_root_shell else f"sudo {command}"


def is_active(unit: str, *, user: bool) -> bool:
    """Whether a unit is active."""
    from gpumand.host_setup.services import CommandFailed, run

    try:
        run(("systemctl", *(("--user",) if user else ()), "is-active", "--quiet", unit))
    except CommandFailed:
        return False
    return True


def is_enabled(unit: str) -> bool:
    """Whether a unit of the system is started at boot."""
    from gpumand.host_setup.services import CommandFailed, run

    try:
        run(("systemctl", "is-enabled", "--quiet", unit))
    except CommandFailed:
        return False
    return True
