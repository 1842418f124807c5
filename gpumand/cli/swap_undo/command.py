"""``gpumanctl init --undo``: says what would be restored, asks, and does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_api import gateway_of
from gpumand.cli.gateway_setup import Places
from gpumand.cli.options import GlobalOptions
from gpumand.cli.setup.configuration_reload import reload_configuration
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.swap_undo.carry_out import Undo
from gpumand.cli.swap_undo.former import with_former_moves
from gpumand.cli.swap_undo.lock import LOCK, alone
from gpumand.cli.swap_undo.plan import AGAIN, UndoPlan, hint, plan_undo
from gpumand.cli.swap_undo.record import RECORD, MovedService, SwapRecord, read_record
from gpumand.cli.swap_undo.work_check import services_in_use
from gpumand.config import ConfigProblems, load

FORCED = "sudo gpumanctl init --undo --force"


def undo(options: GlobalOptions, *, is_confirmed: bool, is_dry_run: bool, is_forced: bool) -> int:
    """Take the swap of ports back. Returns the exit code; raises Failure.

    Args:
        options: options of the command line.
        is_confirmed: ask nothing; services in use stay as they are.
        is_dry_run: only say what would be done.
        is_forced: restart services that are in use too.
    """
    if os.geteuid() != 0:
        raise Failure(ExitCode.FAILURE, f"Permission denied: moving services back needs root. Run: {AGAIN}")
    with alone(LOCK, AGAIN):
        return _undo(options, is_confirmed=is_confirmed, is_dry_run=is_dry_run, is_forced=is_forced)


def _undo(options: GlobalOptions, *, is_confirmed: bool, is_dry_run: bool, is_forced: bool) -> int:
    record = _moved_services()
    if not record.services and not record.enabled:
        print("Nothing to undo: no service was moved behind the gateway.")
        return ExitCode.OK
    is_asking = not (is_confirmed or is_dry_run)
    dialog = Dialog(is_asking=is_asking and sys.stdin.isatty() and sys.stdout.isatty())
    run = _Run(options, record, dialog, is_forced=is_forced)
    plan = run.plan()
    if is_dry_run:
        dialog.heading("Nothing was changed.")
        return ExitCode.OK
    if record.services and not plan.services:
        return ExitCode.FAILURE
    if dialog.is_asking:
        if not dialog.confirm("Undo this now?", default=False):
            print("Nothing was changed.")
            return ExitCode.OK
    elif not is_confirmed:
        raise Failure(
            ExitCode.USAGE, "there is no terminal for a question. To carry it out: gpumanctl init --undo --yes"
        )
    return run.carry_out(plan)


def _moved_services() -> SwapRecord:
    """The record, and the services that an earlier version has moved without one. Raises Failure."""
    try:
        return with_former_moves(read_record(RECORD), Places())
    except ConfigProblems as error:
        raise Failure(ExitCode.FAILURE, f"the configuration has errors: {error}") from None


class _Run:
    """What is said and done for one record."""

    def __init__(self, options: GlobalOptions, record: SwapRecord, dialog: Dialog, *, is_forced: bool) -> None:
        self._record, self._dialog, self._is_forced = record, dialog, is_forced
        self._bus = options.bus_address or "system"
        self._gateway = gateway_of(options, "")
        self._permitted: set[str] = set()
        self._stay: dict[str, str] = {}

    def plan(self) -> UndoPlan:
        """Plan the way back, and say what it is. Services in use stay, unless a person agrees to their restart."""
        everything = plan_undo(self._record)
        busy = self._uses(everything.services)
        for name, what in busy.items():
            question = f"{name} is {what}. Restart it all the same, which ends that work?"
            if self._dialog.is_asking and self._dialog.confirm(question, default=False):
                self._permitted.add(name)
        self._stay = {name: _not_now(what) for name, what in busy.items() if name not in self._permitted}
        plan = plan_undo(self._record, self._stay)
        self._say(plan)
        return plan

    def carry_out(self, plan: UndoPlan) -> int:
        """Do it. Returns a failure if a service stays behind the gateway. Raises Failure."""
        done = Undo(self._record, RECORD, self._dialog, self._uses, self._reload)
        busy = done.carry_out(plan)
        back = [one.consumer for one in plan.services if one.consumer not in busy]
        if plan.services:
            self._dialog.heading(f"Back at the former ports: {', '.join(back) or 'none'}.")
        self._dialog.say(*dict.fromkeys((*plan.hints, *map(hint, _at_new_urls(plan.services)))))
        self._dialog.say(*(f"{name} stays: {_not_now(what)}" for name, what in busy.items()))
        is_complete = not busy and not self._stay and not plan.refused
        if is_complete:
            self._dialog.say(
                "Programs with the settings of gpumanctl connect get their own back from: gpumanctl disconnect"
            )
        return ExitCode.OK if is_complete else ExitCode.FAILURE

    def _uses(self, services: Iterable[MovedService]) -> dict[str, str]:
        if self._is_forced:
            return {}
        found = services_in_use(self._bus, services, self._gateway)
        return {name: what for name, what in found.items() if name not in self._permitted}

    def _reload(self) -> None:
        reload_configuration(self._bus)

    def _say(self, plan: UndoPlan) -> None:
        dialog = self._dialog
        if plan.services:
            dialog.heading("To be undone:")
            dialog.say(*map(_way_back, plan.services))
            dialog.say(*(f"{'remove' if text is None else 'restore'} {path}" for path, text in plan.files.items()))
            dialog.say(*(f"stop and remove {path}" for path in plan.sockets))
        elif not self._record.services:
            dialog.heading("All services are back. To be undone:")
            dialog.say(f"disable {', '.join(self._record.enabled)}")
        stay: Mapping[str, str] = {**plan.refused, **self._stay}
        if stay:
            dialog.heading("Not undone:")
            dialog.say(*(f"{name}: {why}" for name, why in stay.items()))
        if plan.hints:
            dialog.heading("Manual steps:")
            dialog.say(*plan.hints)


def _at_new_urls(services: Iterable[MovedService]) -> list[MovedService]:
    """Services for which the configuration still has the new port, as in a file that was renamed since."""
    try:
        consumers = load(Places().config).consumers
    except ConfigProblems:
        return []
    urls = {one.consumer: consumers[one.consumer].url for one in services if one.consumer in consumers}
    return [one for one in services if urls.get(one.consumer, "").rstrip("/").endswith(f":{one.new_port}")]


def _not_now(what: str) -> str:
    return f"{what}. Repeat this command later, or restart it now, which ends that work: {FORCED}"


def _way_back(service: MovedService) -> str:
    if service.drop_in is None:
        return f"{service.consumer}: the gateway no longer listens at port {service.old_port}."
    restart = f"{service.unit} is restarted if it runs, which ends its running requests"
    return f"{service.consumer} goes back from port {service.new_port} to {service.old_port}; {restart}."
