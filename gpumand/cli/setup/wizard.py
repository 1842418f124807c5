"""The steps of ``gpumanctl setup``, from the system files to the first lease."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpumand.cli.doctor.facts import GROUP
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_setup import Proposal
from gpumand.cli.options import GlobalOptions, command_line
from gpumand.cli.setup import first_lease, gateway_step, new_services, system_files
from gpumand.cli.setup.commands import as_typed, is_active, run_all
from gpumand.cli.setup.configuration_reload import reload_configuration
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.interrupts import uninterrupted
from gpumand.cli.setup.new_services import NewService, Survey
from gpumand.cli.sizes import parse_size
from gpumand.cli.swap_undo.lock import LOCK, alone
from gpumand.client.client import Client
from gpumand.client.errors import GpumandError
from gpumand.discovery.starter_config import ADDRESS_ADVICE
from gpumand.host_setup.init_system import no_systemd
from gpumand.host_setup.services import is_systemd_running

DAEMON_UNITS = ("gpumand.socket", "gpumand-containers.socket", "gpumand.service")
GUIDE = "/usr/share/doc/gpumand"
FOOTPRINT = "vram_resident_mib"
"""The only key that setup asks for."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line says about the questions.

    Attributes:
        gateway: put the gateway in front of the services; None = ask, and do not without an answer.
        changes: False = say what would be done, and do nothing.
    """

    gateway: bool | None = None
    changes: bool = True


class Wizard:
    """One run of the wizard.

    Args:
        options: options of the command line.
        choices: what it says about the questions.
        dialog: asks and prints.
    """

    def __init__(self, options: GlobalOptions, choices: Choices, dialog: Dialog) -> None:
        self._options = options
        self._choices = choices
        self._dialog = dialog
        self._user = options.user
        self._bus = options.bus_address or ("session" if options.user else "system")
        self._packaged = system_files.packaged_unit()

    def run(self) -> int:
        """Go through all steps. Returns the exit code; raises Failure, or click.Abort without an answer."""
        found = asyncio.run(new_services.survey(self._options))
        self._show(found)
        if not self._choices.changes:
            self._say_what_would_be_done(found)
            return ExitCode.OK
        if self._install() != ExitCode.OK:
            return ExitCode.FAILURE
        if not is_systemd_running(user=self._user):
            return ExitCode.OK  # the commands to run later were printed
        self._configure(found)
        gateway = self._put_gateway_in_front()
        code = self._check() or gateway
        self._take_first_lease()
        self._say_what_is_next()
        return code

    # -- what there is -------------------------------------------------------------------------------------------------

    def _show(self, found: Survey) -> None:
        dialog = self._dialog
        dialog.heading("Found on this host:")
        dialog.say(*(found.devices or ("no GPU whose memory can be read",)))
        dialog.say(*(f"{one.name}: {one.what}" for one in found.new))
        if found.configured:
            dialog.say(f"already configured: {', '.join(found.configured)}")
        if not found.new and not found.configured:
            dialog.say("no service that gpumand knows. Start your services, and run setup again to find them.")
        dialog.say(*(f"not scanned: {one}" for one in found.limits))

    def _say_what_would_be_done(self, found: Survey) -> None:
        dialog = self._dialog
        dialog.heading("Setup would:")
        if self._packaged is None:
            dialog.say(f"write {system_files.count_of_changes(user=self._user)} system files, and start gpumand;")
        ready = [one.name for one in found.new if not one.missing]
        if ready:
            dialog.say(f"configure {', '.join(ready)} in a new file;")
        for one in found.new:
            if one.missing == [FOOTPRINT]:
                dialog.say(f"ask for {FOOTPRINT} of {one.name}, or leave it out;")
            elif one.missing:
                dialog.say(f"leave out {one.name}, of which {', '.join(one.missing)} is not known;")
        if not self._user:
            dialog.say("offer to put the gateway in front of the services (--gateway);")
        dialog.say("check the installation, and take a lease for a moment.", "Nothing was changed.")

    # -- system files and daemon ---------------------------------------------------------------------------------------

    def _install(self) -> int:
        dialog = self._dialog
        if self._packaged is not None:
            missing = None if self._user else no_systemd()
            if missing is not None:
                raise Failure(ExitCode.FAILURE, f"{missing}. Nothing was changed")
            manager = ("systemctl", *(("--user",) if self._user else ()))
            idle = [one for one in DAEMON_UNITS if not is_active(one, user=self._user)]
            state = "Starting gpumand." if idle else "gpumand runs."
            dialog.heading(f"{state} Its files come from a package of the distribution.")
            if idle:
                run_all([(*manager, "enable", "--now", *idle)], dialog)
            return ExitCode.OK
        changes = system_files.count_of_changes(user=self._user)
        if not changes and all(is_active(one, user=self._user) for one in DAEMON_UNITS):
            dialog.heading("The system files are complete, and gpumand runs.")
            return ExitCode.OK
        dialog.heading(f"System files of this gpumand: {changes} to write. They are units, bus policy and accounts.")
        if not dialog.confirm("Write them and start gpumand?", default=True):
            raise Failure(ExitCode.FAILURE, "without its system files gpumand cannot run. Nothing was changed")
        with uninterrupted():
            return system_files.install(user=self._user, dry_run=False, is_verbose=False)

    # -- configuration -------------------------------------------------------------------------------------------------

    def _configure(self, found: Survey) -> None:
        dialog = self._dialog
        if not found.new:
            return
        dialog.heading("Configuration:")
        complete = [one for one in map(self._completed, found.new) if not one.missing]
        left_out = [one for one in found.new if one.name not in {ready.name for ready in complete}]
        for one in left_out:
            dialog.say(f"{one.name} is left out: {', '.join(one.missing)} is not known. {_advice(one)}")
        chosen = [one for one in complete if dialog.confirm(f"Let gpumand manage {one.name}?", default=True)]
        if not chosen:
            return
        with uninterrupted():
            path = new_services.add(chosen, user=self._user)
            try:
                self._reload()
            except Failure:
                path.unlink()
                raise
        dialog.say(f"wrote {path} with {', '.join(one.name for one in chosen)}, and reloaded gpumand.")
        for one in () if self._user else chosen:
            advice = (line for line in one.table.splitlines() if ADDRESS_ADVICE in line)
            dialog.say(*(f"{one.name}: {line.removeprefix('# ')}" for line in advice))

    def _completed(self, service: NewService) -> NewService:
        """The service with the footprint that a person has named."""
        while service.missing == [FOOTPRINT]:
            answer = self._dialog.text(
                f"How much VRAM does {service.name} need while it works, for example 6G? (Enter leaves it out)"
            )
            if not answer:
                break
            try:
                return service.with_vram_mib(parse_size(answer))
            except ValueError as error:
                self._dialog.say(str(error))
        return service

    def _reload(self) -> None:
        reload_configuration(self._bus)

    # -- gateway -------------------------------------------------------------------------------------------------------

    def _put_gateway_in_front(self) -> int:
        """Put it in front, as far as that is wanted. Returns a failure if it was asked for and is not possible now."""
        dialog, wanted = self._dialog, self._choices.gateway
        if self._user or wanted is False:
            return ExitCode.OK
        not_done = ExitCode.FAILURE if wanted else ExitCode.OK
        dialog.heading("Gateway: programs that know only an address get leases through it.")
        if not gateway_step.is_installed():
            dialog.say(f"It is not installed. {gateway_step.installation()}", "Then run setup again.")
            return not_done
        with alone(LOCK, "sudo gpumanctl setup --gateway"):
            return ExitCode.OK if self._offer_gateway(is_wanted=bool(wanted)) else not_done

    def _offer_gateway(self, *, is_wanted: bool) -> bool:
        """Put it in front of the services that are not leased. Returns False if they are; raises Failure."""
        dialog = self._dialog
        proposal = gateway_step.proposal(self._options)
        if not proposal.ready:
            gateway_step.explain(proposal, dialog)
            self._start_gateway(is_wanted=is_wanted)
            return True
        gateway_step.explain(proposal, dialog)
        leased = self._leased(one.consumer for one in proposal.ready)
        if leased:
            dialog.say(
                f"Not now: {', '.join(leased)} is leased, and a restart would end that work. Run setup again later."
            )
            return False
        if is_wanted or dialog.confirm("Put the gateway in front of them now?", default=False):
            self._move(gateway_step.permitted(proposal, dialog))
        else:
            dialog.say("Left as it is. To do it later: sudo gpumanctl setup --gateway")
        return True

    def _move(self, chosen: Proposal) -> None:
        if not chosen.ready:
            self._start_gateway(is_wanted=True)
            return
        gateway_step.carry_out(chosen, self._dialog, self._reload)
        self._dialog.say(f"Clients use the ports as before. All models are at {gateway_step.ADDRESS}/v1.")
        self._dialog.say("To move the services back: sudo gpumanctl init --undo")

    def _start_gateway(self, *, is_wanted: bool) -> None:
        dialog = self._dialog
        if is_active(gateway_step.SOCKET, user=False):
            dialog.say(f"It runs. All models are at {gateway_step.ADDRESS}/v1.")
        elif is_wanted or dialog.confirm(f"Start it at {gateway_step.ADDRESS}?", default=False):
            gateway_step.start(dialog)

    def _leased(self, consumers: Iterable[str]) -> list[str]:
        async def leases() -> set[str]:
            async with Client(self._bus) as client:
                return {one.consumer for one in (await client.status()).leases}

        try:
            found = asyncio.run(leases())
        except GpumandError as error:
            raise Failure(ExitCode.FAILURE, f"gpumand does not answer: {error.message}") from None
        return sorted(found & set(consumers))

    # -- check and first lease -----------------------------------------------------------------------------------------

    def _check(self) -> int:
        from gpumand.cli.doctor.checks import examine
        from gpumand.cli.doctor.collect import collect_facts
        from gpumand.cli.doctor.finding import Severity

        dialog = self._dialog
        dialog.heading("Check (gpumanctl doctor):")
        found = examine(asyncio.run(collect_facts(self._options, None)))
        findings = [one for ones in found.values() for one in ones or ()]
        for one in findings:
            if one.severity in (Severity.PROBLEM, Severity.WARNING):
                dialog.say(f"{one.severity}: {one.what}", *(f"  {text}" for text in (one.why, one.fix) if text))
        problems = [one for one in findings if one.severity is Severity.PROBLEM]
        if not problems:
            dialog.say("no problem was found.")
        return ExitCode.FAILURE if problems else ExitCode.OK

    def _take_first_lease(self) -> None:
        dialog = self._dialog
        dialog.heading("First lease:")
        try:
            proposal = asyncio.run(first_lease.choose(self._bus))
            if not proposal.consumer:
                dialog.say(f"No service can be leased now. Configure one, and try: {self._try('NAME')}")
                return
            name = proposal.consumer
            unloaded = ", ".join(proposal.unloads)
            question = f"Take a lease on {name} for a moment{', which unloads ' + unloaded if unloaded else ''}?"
            # Without a person to ask, nothing is unloaded for a try.
            if not dialog.confirm(question, default=proposal.disturbs_nothing):
                why = f", since it would unload {unloaded}" if unloaded else ""
                dialog.say(f"Not taken{why}. Try it yourself: {self._try(name)}")
                return
            device = asyncio.run(first_lease.take(self._bus, name))
            dialog.say(f"{name} was leased on GPU {device or '0'} and released again. gpumand works.")
        except GpumandError as error:
            if not first_lease.is_leased(error):
                raise Failure(ExitCode.FAILURE, f"the first lease was refused: {error.message}") from None
            dialog.say(f"Not now: {error.message}")

    def _try(self, consumer: str) -> str:
        """The command that takes a lease for a moment."""
        return as_typed(self._options, "acquire", consumer, "--ttl", "30s")

    def _say_what_is_next(self) -> None:
        dialog, name = self._dialog, os.environ.get("SUDO_USER", "")
        dialog.heading("What to do next:")
        user = name if name != "root" else ""
        if not self._user and not (user and is_member(user)):
            named = shlex.quote(user) if user else "NAME"
            dialog.say(f"To let {user or 'NAME'} take leases: sudo gpasswd --add {named} gpumand, then log in again.")
        dialog.say(f"To watch the GPU: {command_line(self._options, 'top')}")
        if not self._user and is_active(gateway_step.SOCKET, user=False):
            dialog.say("To let your programs use the gateway: gpumanctl connect --dry-run")
        if Path(GUIDE).is_dir():
            dialog.say(f"Documentation: {GUIDE}, man gpumanctl")


def _advice(service: NewService) -> str:
    if service.missing == [FOOTPRINT]:
        return "Send it a request, so that it loads its model, and run setup again."
    return "Configure it yourself: gpumanctl init shows its table."


def is_member(user: str) -> bool:
    """Whether a user is in the group that may take leases, by its own entry or as a primary group."""
    try:
        group = grp.getgrnam(GROUP)
        return user in group.gr_mem or pwd.getpwnam(user).pw_gid == group.gr_gid
    except KeyError:
        return False
