"""Puts the gateway in front of the configured services: the swap of ports of ``gpumanctl init --gateway``, carried out.

A service that does not come back at its new port is moved back, since its clients would get no answer any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_setup import Places, Proposal, apply, propose, without
from gpumand.cli.options import GlobalOptions
from gpumand.cli.packages import install_command, read_packages
from gpumand.cli.render.gateway_setup import narrowing
from gpumand.cli.setup.commands import is_active, is_enabled, run_all
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.interrupts import uninterrupted
from gpumand.cli.setup.port_wait import unit_state, wait_for_ports
from gpumand.cli.swap_undo.record import GATEWAY_UNITS
from gpumand.config import ConfigProblems
from gpumand.discovery.port_swap import Swap

UNIT_FOLDERS = tuple(map(Path, ("/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system")))
SOCKET, SERVICE = UNITS = GATEWAY_UNITS
PACKAGE = "gpumand-gateway"
ADDRESS = "http://127.0.0.1:8770"


def is_installed() -> bool:
    """Whether the units of the gateway are there; Debian has them in a package of its own."""
    return any((folder / SOCKET).exists() for folder in UNIT_FOLDERS)


def installation() -> str:
    """How to install the gateway on this host, as a sentence without its end."""
    return f"To use it, run: {install_command(PACKAGE, read_packages(), prefix='sudo ')}"


def proposal(options: GlobalOptions) -> Proposal:
    """What would be changed. Raises Failure if a configuration has errors."""
    try:
        return asyncio.run(propose(options.bus_address or "system", Places()))
    except ConfigProblems as error:
        raise Failure(ExitCode.FAILURE, f"the configuration has errors: {error}") from None


def start(dialog: Dialog) -> None:
    """Start the gateway with its present configuration. Raises Failure."""
    commands: list[tuple[str, ...]] = [("systemctl", "enable", *UNITS)]
    if not is_active(SOCKET, user=False):
        # systemd refuses to open a socket whose service runs already.
        commands += [("systemctl", "stop", SERVICE), ("systemctl", "start", SOCKET)]
    run_all([*commands, ("systemctl", "restart", SERVICE)], dialog)


def explain(found: Proposal, dialog: Dialog) -> None:
    """Say in words what would change, and what a person has to do first."""
    for one in found.ready:
        restart = f"; {one.unit} is restarted, which ends its running requests" if one.drop_in else ""
        move = f"{one.consumer} moves from port {one.old_port} to {one.new_port}" if one.drop_in else one.consumer
        dialog.say(f"{move}: the gateway listens at 127.0.0.1:{one.old_port}{restart}.")
    for one in found.swaps:
        if one.todo:
            dialog.say(f"{one.consumer}: {one.todo}, set its url to {one.url}, and run setup again.")
    for one in found.swaps:
        if one.is_narrowed:
            dialog.say(narrowing(one))
    dialog.say(*(f"{one.consumer}: nothing to do, because {one.why}." for one in found.skipped))
    for edit in found.manual_edits:
        dialog.say(f"Edit it yourself: {edit}")


def permitted(found: Proposal, dialog: Dialog) -> Proposal:
    """The changes without the services that lose clients on other hosts, unless a person agrees to each of these."""
    left_out = []
    for one in found.ready:
        question = f"Move {one.consumer}, so that other hosts and containers no longer reach it?"
        if one.is_narrowed and not dialog.confirm(question, default=False):
            left_out.append(one.consumer)
    if left_out:
        dialog.say(
            f"Left as it is: {', '.join(left_out)}. To move it, answer the question of: sudo gpumanctl setup --gateway"
        )
    return without(found, left_out, Places()) if left_out else found


def carry_out(found: Proposal, dialog: Dialog, reload: Callable[[], None]) -> None:
    """Write the files, restart what runs, and check that every service listens at its new port.

    Args:
        found: the changes.
        dialog: says what is done.
        reload: lets gpumand read the new addresses; raises Failure.

    Raises:
        Failure: it was not possible; then the files are as before, and the services listen at their old ports.
    """
    before = {path: _bytes(path) for path in (*found.files, *((found.record,) if found.moves else ()))}
    if found.moves:
        found.enabled = tuple(unit for unit in UNITS if not is_enabled(unit))
    moved = [one for one in found.ready if one.drop_in]
    running = [one for one in moved if unit_state(one.unit).is_running]
    with uninterrupted() as signals:
        try:
            apply(found)
            dialog.say(*(f"wrote {path}" for path in found.files))
            run_all(_restarts(moved), dialog)
            wait_for_ports(running, dialog, signals)
            reload()
            start(dialog)
        except (Failure, OSError) as error:
            dialog.say("This did not work. The services go back to their old ports.")
            _take_back(before, [one.unit for one in running], dialog)
            with suppress(Failure):
                reload()
            raise Failure(ExitCode.FAILURE, f"the gateway was not put in front: {error}") from None


def _restarts(moved: Iterable[Swap]) -> list[tuple[str, ...]]:
    units = [one.unit for one in moved]
    # try-restart: a service that gpumand has unloaded stays so. The wait for the ports is the wait for the restart too.
    return [("systemctl", "daemon-reload"), ("systemctl", "try-restart", "--no-block", *units)] if units else []


def _take_back(before: dict[Path, bytes | None], units: Iterable[str], dialog: Dialog) -> None:
    """Restore the files; what cannot be restored is named, and does not keep the rest from being restored."""
    for path, content in before.items():
        try:
            if content is None:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
            elif _bytes(path) != content:
                path.write_bytes(content)
        except OSError as error:
            dialog.say(f"{path} could not be restored: {error.strerror}.")
    # The gateway first, since it frees the ports.
    commands = [("systemctl", "daemon-reload"), ("systemctl", "try-restart", SERVICE)]
    # A service may start for minutes. systemd goes on with it without this program.
    for command in (*commands, *(("systemctl", "restart", "--no-block", unit) for unit in units)):
        with suppress(Failure):
            run_all([command], dialog)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
