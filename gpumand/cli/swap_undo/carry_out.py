"""Carries the plan out: closes the listeners, restores the files, and restarts the services that run.

Every step can be repeated. A service leaves the record when it is back, so that a run that was killed is completed by
the next one.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Sized
from contextlib import suppress
from pathlib import Path

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_setup import replace_file
from gpumand.cli.setup.commands import run_all
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.interrupts import uninterrupted
from gpumand.cli.setup.port_wait import POLL_SEC, SHOW_SEC, unit_state, wait_for_ports
from gpumand.cli.swap_undo.plan import AGAIN, UndoPlan, plan_undo
from gpumand.cli.swap_undo.record import MovedService, SwapRecord, write_record
from gpumand.cli.swap_undo.work_check import DAEMON
from gpumand.config import ConfigProblems
from gpumand.discovery.port_swap import Swap
from gpumand.discovery.sockets import listeners
from gpumand.gateway import config as gateway_config
from gpumand.host_setup.services import CommandFailed, run

GATEWAY = "gpumand-gateway.service"
CLOSE_SEC = 30.0
"""Within this time the gateway closes listeners that its configuration no longer has."""

REPEAT = f"Fix that, and repeat: {AGAIN}"

Uses = Callable[[Iterable[MovedService]], dict[str, str]]
"""Services -> what those in use work on."""


class Undo:
    """One run of ``gpumanctl init --undo``.

    Args:
        record: the record, as it was read.
        place: its file.
        dialog: says what is done.
        uses: finds services in use; asked once more when no new request arrives through the gateway.
        reload: lets gpumand read the former addresses; raises Failure.
    """

    def __init__(self, record: SwapRecord, place: Path, dialog: Dialog, uses: Uses, reload: Callable[[], None]) -> None:
        self._record, self._place = record, place
        self._dialog, self._uses, self._reload = dialog, uses, reload

    def carry_out(self, plan: UndoPlan) -> dict[str, str]:
        """Restore everything that is planned.

        Returns:
            Services that stay behind the gateway, since they were taken into use meanwhile, and what they work on.

        Raises:
            Failure: a step failed, or a service is not back; what is not back stays in the record.
        """
        stay: dict[str, str] = {}
        with uninterrupted() as signals:
            _assert_unchanged(plan)
            while plan.services and (busy := self._close_listeners(plan)):
                self._open_again(plan)
                stay |= busy
                plan = self._without(plan, busy)
            if plan.services:
                self._put_back(plan, signals)
            elif not self._record.services:  # a former run has failed at its last step
                self._forget(())
        return stay

    def _without(self, plan: UndoPlan, busy: Collection[str]) -> UndoPlan:
        """The plan for the same services but those in use. Services that were left out before stay left out."""
        kept = {one.consumer for one in plan.services} - set(busy)
        return plan_undo(self._record, self._record.services.keys() - kept, plan.unit_folder)

    def _close_listeners(self, plan: UndoPlan) -> dict[str, str]:
        """Free the old ports. Returns services that are in use all the same; then nothing else was changed yet."""
        if plan.sockets:
            names = [one.name for one in plan.sockets]
            self._run([("systemctl", "disable", *names), ("systemctl", "stop", *names)])
        for path in plan.gateway_files & plan.files.keys():
            self._write(path, plan.files[path])
        self._configure_gateway(plan, is_restart=bool(plan.sockets))
        _wait_until_closed(plan.services)
        return self._uses(plan.services)

    def _configure_gateway(self, plan: UndoPlan, *, is_restart: bool) -> None:
        if _is_stopped(GATEWAY):
            return
        try:
            # Requests of other services go on over a reload. Sockets that systemd has passed stay open until a restart.
            self._run([("systemctl", "restart" if is_restart else "reload", GATEWAY)])
        except Failure as failure:
            self._open_again(plan, is_told=False)
            raise Failure(ExitCode.FAILURE, f"the gateway keeps its listeners: {failure}") from None

    def _open_again(self, plan: UndoPlan, *, is_told: bool = True) -> None:
        """Put the listeners back as they were."""
        for path in plan.gateway_files & plan.files.keys():
            self._write(path, plan.before[path])
        names = [one.name for one in plan.sockets]
        commands: list[tuple[str, ...]] = []
        if names:
            commands = [("systemctl", "stop", GATEWAY), ("systemctl", "enable", "--now", *names)]
        if is_told:
            verb = "start" if names else "reload"
            commands += [("systemctl", verb, GATEWAY)] if names or not _is_stopped(GATEWAY) else []
        self._run_or_report(commands)

    def _run_or_report(self, commands: list[tuple[str, ...]]) -> None:
        """Run commands that open the listeners again. After a failure, print the rest for the administrator."""
        for number, command in enumerate(commands):
            rest = "; ".join(f"sudo {' '.join(one)}" for one in commands[number:])
            try:
                run_all([command], self._dialog, f"Fix that, and run: {rest}")
            except Failure as failure:
                self._dialog.say(f"The gateway does not listen at all former ports again: {failure}")
                return

    def _run(self, commands: Iterable[tuple[str, ...]]) -> None:
        run_all(commands, self._dialog, REPEAT)

    def _put_back(self, plan: UndoPlan, signals: Sized) -> None:
        for path in plan.files.keys() - plan.gateway_files:
            self._write(path, plan.files[path])
        for path in plan.sockets:
            self._write(path, None)
        self._remove_folders(plan)
        moved = [one for one in plan.services if one.drop_in is not None]
        self._run([("systemctl", "daemon-reload")] if moved or plan.sockets else [])
        restarted = [one for one in moved if unit_state(one.unit).is_running and not _is_back(one)]
        if restarted:
            units = [one.unit for one in restarted]
            self._run([("systemctl", "try-restart", "--no-block", *units)])
        failure = self._await(restarted, signals)
        if not _is_stopped(DAEMON):
            self._reload()
        try:
            self._forget(plan.services if failure is None else [one for one in plan.services if one not in restarted])
        except Failure as unwritten:
            raise Failure(ExitCode.FAILURE, f"{failure}. {unwritten}") if failure else unwritten from None
        if failure is not None:
            raise failure

    def _await(self, restarted: list[MovedService], signals: Sized) -> Failure | None:
        try:
            # The ports are the other way round: a service comes back from its new port to its old one.
            wait_for_ports(
                [Swap(one.consumer, one.unit, one.new_port, one.old_port) for one in restarted], self._dialog, signals
            )
        except Failure as failure:
            advice = "Its files are as before the gateway. Look at its log (journalctl --unit), and repeat this command"
            return Failure(ExitCode.FAILURE, f"{failure}. {advice}")
        return None

    def _forget(self, services: Iterable[MovedService]) -> None:
        """Take services out of the record, and after the last one disable the gateway. Raises Failure."""
        for one in services:
            self._record = self._record.without(one.consumer)
        # Written before the last step too: if that fails, the next run has only that step left.
        self._write_record()
        if not self._record.services and self._record.enabled:
            self._disable_gateway(self._record.enabled)
            self._record = SwapRecord({})
            self._write_record()

    def _write_record(self) -> None:
        try:
            write_record(self._place, self._record)
        except OSError as error:
            what = f"cannot write {self._place}, the record of moved services: {error.strerror}"
            raise Failure(ExitCode.FAILURE, f"{what}. {REPEAT}") from None

    def _disable_gateway(self, units: Iterable[str]) -> None:
        """Disable what was not enabled before the swap, unless the gateway has been given other work since."""
        command = ("systemctl", "disable", "--now", *units)
        others = _other_listeners()
        if others:
            self._dialog.say(
                f"the gateway goes on, since it has other listeners: {', '.join(others)}. "
                f"If you do not need it: sudo {' '.join(command)}"
            )
            return
        try:
            run(command)
        except CommandFailed as error:
            what = f"the services are back, but {', '.join(units)} could not be disabled: {error}"
            raise Failure(ExitCode.FAILURE, f"{what}. {REPEAT}") from None
        self._dialog.say(f"disabled {', '.join(units)}")

    def _write(self, path: Path, text: str | None) -> None:
        try:
            if text is None:
                path.unlink(missing_ok=True)
            else:
                replace_file(path, text)
        except OSError as error:
            raise Failure(ExitCode.FAILURE, f"cannot write {path}: {error.strerror}. Repeat it as root") from None
        self._dialog.say(f"{'removed' if text is None else 'restored'} {path}")

    def _remove_folders(self, plan: UndoPlan) -> None:
        """Remove the folders that were created for drop-ins, unless they have other files."""
        for one in plan.services:
            if one.drop_in is not None and one.drop_in.made_folder:
                with suppress(OSError):
                    os.rmdir(Path(one.drop_in.path).parent)


def _wait_until_closed(services: Iterable[MovedService]) -> None:
    """Wait until the gateway does not listen at the old ports any more. Raises Failure."""
    ports, pid = {one.listener.port for one in services if one.listener is not None}, _gateway_pid()
    deadline = time.monotonic() + CLOSE_SEC
    while pid and (open_ports := {one.port for one in listeners()[0] if one.pid == pid} & ports):
        if time.monotonic() > deadline:
            what = f"the gateway still listens at port {', '.join(map(str, sorted(open_ports)))}"
            raise Failure(ExitCode.FAILURE, f"{what}. See journalctl --unit=gpumand-gateway, and repeat this command")
        time.sleep(POLL_SEC)


def _assert_unchanged(plan: UndoPlan) -> None:
    """Raises Failure if a file was changed while the question was open: the plan would undo that change."""
    for path in plan.files:
        try:
            now = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            now = None
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(ExitCode.FAILURE, f"cannot read {path}: {error}") from None
        if now != plan.before[path]:
            what = f"{path} was changed meanwhile, and nothing was done. Repeat this command"
            raise Failure(ExitCode.FAILURE, what)


def _other_listeners() -> list[str]:
    """The listeners that the gateway has besides those of the swap; a configuration with errors counts as one."""
    try:
        return list(gateway_config.load().listeners)
    except ConfigProblems:
        return [str(gateway_config.DEFAULT_FILE)]


def _is_stopped(unit: str) -> bool:
    """Whether a unit reads its files at its next start only. One that is starting may have read them already."""
    return unit_state(unit).active in ("inactive", "failed")


def _gateway_pid() -> int:
    """The process of the gateway; 0 if it does not run. Raises Failure if systemd does not answer."""
    command = ["systemctl", "show", "--property=MainPID", "--value", GATEWAY]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SHOW_SEC, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(ExitCode.FAILURE, f"the process of the gateway is unknown: {error}. {REPEAT}") from None
    text = done.stdout.strip()
    return int(text) if text.isdecimal() else 0


def _is_back(service: MovedService) -> bool:
    """Whether a server listens at the former port and none at the new one. The gateway has closed its own before."""
    ports = {one.port for one in listeners()[0]}
    return service.old_port in ports and service.new_port not in ports
