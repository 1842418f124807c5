"""``gpumanctl connect`` and ``gpumanctl disconnect``: programs of a user that are to use the gateway."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json

if TYPE_CHECKING:
    from gpumand.cli.connect.backups import Backups
    from gpumand.cli.connect.connecting import Step
    from gpumand.cli.connect.programs import Program, Target, User

NAMES = ("open-webui", "continue", "cline", "aider", "codex", "shell")
DEFAULT_URL = "http://127.0.0.1:8770"
MAX_KEY_BYTES = 4096

_URL = re.compile(r"(https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?)")
_WORD = re.compile(r"[A-Za-z0-9._~+/=:@-]+")

_programs = click.argument("programs", metavar="[PROGRAM]...", nargs=-1, type=click.Choice(NAMES))
_dry_run = click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")


@click.command(cls=Command)
@_programs
@_dry_run
@click.option(
    "--url", metavar="URL", default="", help=f"Address of the gateway. Default: as configured, {DEFAULT_URL}."
)
@click.option("--model", metavar="NAME", default="", help="Model to select. Default: the program's own choice.")
@click.option("--key-file", type=Path, metavar="FILE", help="File with the API key that the gateway requires.")
@click.option("--file", "files", metavar="PROGRAM=FILE", multiple=True, help="Settings file of a program. Repeatable.")
@click.pass_context
def connect(
    ctx: click.Context,
    programs: tuple[str, ...],
    dry_run: bool,
    url: str,
    model: str,
    key_file: Path | None,
    files: tuple[str, ...],
) -> int:
    """Let programs use the gateway, by their own settings.

    PROGRAM is open-webui, continue, cline, aider, codex or shell. Without one, all that this user seems to have are
    connected, except the shell, whose variables concern every program. A few marked lines are added to the settings of
    each program; gpumanctl disconnect puts the files back. What cannot be set in a file is printed.
    """
    from gpumand.cli.connect.connecting import connect as carry_out
    from gpumand.cli.connect.connecting import connection_step

    user, backups = _user_and_backups()
    target, named = _target(url, model, key_file), _named_files(files)
    chosen = _chosen((*programs, *named), user)
    planned = (connection_step(one, user, target, named.get(one.name), backups) for one in chosen)
    steps = [_done(one, lambda step: carry_out(step, backups), dry_run=dry_run) for one in planned]
    options = global_options(ctx)
    _print(steps, options, dry_run=dry_run)
    if not options.json and not options.quiet:
        _print_hints(target, steps)
    return _exit_code(steps)


@click.command(cls=Command)
@_programs
@_dry_run
@click.pass_context
def disconnect(ctx: click.Context, programs: tuple[str, ...], dry_run: bool) -> int:
    """Put back the settings that connect has changed.

    Without a PROGRAM, all are put back. A file that was changed since keeps these changes: only the lines of gpumanctl
    are removed from it.
    """
    from gpumand.cli.connect.connecting import disconnect as carry_out
    from gpumand.cli.connect.connecting import disconnection_step

    _, backups = _user_and_backups()
    options = global_options(ctx)
    known = backups.programs()
    for name in (*(one for one in programs if one not in known), *(() if programs or known else ("no program",))):
        if not options.json:
            click.echo(f"{name}: not connected by gpumanctl.")
    planned = [disconnection_step(one, backups) for one in (programs or known)]
    steps = [_done(one, lambda step: carry_out(step, backups), dry_run=dry_run) for one in planned if one is not None]
    _print(steps, options, dry_run=dry_run)
    return _exit_code(steps)


# -- arguments ---------------------------------------------------------------------------------------------------------


def _user_and_backups() -> tuple[User, Backups]:
    """The user that runs the command. Raises Failure with sudo: the files would be those of root."""
    from gpumand.cli.connect.backups import Backups
    from gpumand.cli.connect.programs import User

    other = os.environ.get("SUDO_USER", "")
    if os.geteuid() == 0 and other not in ("", "root"):
        raise Failure(
            ExitCode.USAGE, f"with sudo, these would be the settings of root. Run it as {other}, without sudo"
        )
    user = User(Path.home(), os.environ, Path.cwd())
    return user, Backups.of_user(user.home, user.environ)


def _target(url: str, model: str, key_file: Path | None) -> Target:
    from gpumand.cli.connect.programs import NAME, Target

    address = (url or _configured_url()).rstrip("/").removesuffix("/v1")
    if not _URL.fullmatch(address):
        raise click.UsageError(f"--url {url!r} is no address such as {DEFAULT_URL}")
    if model and not _WORD.fullmatch(model):
        raise click.UsageError(f"--model {model!r} has characters that names of models do not have")
    return Target(address, _key(key_file) if key_file else NAME, model)


def _configured_url() -> str:
    """The gateway's own address in its configuration, the default if it cannot be read."""
    from gpumand.config import ConfigProblems
    from gpumand.gateway.config import load

    try:
        listen = load().listen
    except (ConfigProblems, OSError):
        return DEFAULT_URL
    address = next((one for one in listen if not one.startswith("unix:")), "")
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{host}:{port}" if host and port else DEFAULT_URL


def _key(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_KEY_BYTES + 1).decode("ascii", "replace").strip()
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"cannot read {path}: {error.strerror}") from None
    if not _WORD.fullmatch(text) or len(text) > MAX_KEY_BYTES:
        raise Failure(ExitCode.FAILURE, f"{path} does not contain an API key in one line")
    return text


def _named_files(files: Sequence[str]) -> dict[str, Path]:
    found = {}
    for one in files:
        name, _, path = one.partition("=")
        if name not in NAMES or not path:
            raise click.UsageError(f"--file {one!r} is not PROGRAM=FILE, with one of {', '.join(NAMES)}")
        found[name] = Path(path).expanduser().absolute()
    return found


def _chosen(names: Sequence[str], user: User) -> list[Program]:
    """The named programs, or those that the user seems to have. Raises Failure if there is none."""
    from gpumand.cli.connect.programs import PROGRAMS

    if names:
        return [PROGRAMS[name] for name in dict.fromkeys(names)]
    present = [one for one in PROGRAMS.values() if one.is_implied and one.is_present(user)]
    if not present:
        what = f"none of {', '.join(one.name for one in PROGRAMS.values() if one.is_implied)} was found for this user"
        raise Failure(
            ExitCode.FAILURE, f"{what}. Name one to write its settings anyway, for example: gpumanctl connect aider"
        )
    return present


# -- what is done and printed ------------------------------------------------------------------------------------------


def _done(step: Step, carry_out: Callable[[Step], None], *, dry_run: bool) -> Step:
    """Carry out a step; one that fails becomes a refusal, so that the other programs are not affected."""
    from dataclasses import replace

    from gpumand.cli.connect.connecting import Action
    from gpumand.cli.connect.marked_lines import CannotEdit

    if dry_run or step.action in (Action.REFUSED, Action.MANUAL):
        return step
    try:
        if step.is_change or step.backup is not None:
            carry_out(step)
    except CannotEdit as error:
        return replace(step, action=Action.REFUSED, reason=str(error))
    return step


def _print(steps: Sequence[Step], options: GlobalOptions, *, dry_run: bool) -> None:
    if options.json:
        rows = [
            {"program": one.program, "action": one.action, "file": str(one.path or ""), "reason": one.reason}
            | {"notes": list(one.notes)}
            for one in steps
        ]
        return print_json(rows)
    from gpumand.cli.render.connect import step_lines

    for one in steps:
        click.echo("\n".join(step_lines(one, dry_run=dry_run, quiet=options.quiet)))
    return None


def _print_hints(target: Target, steps: Sequence[Step]) -> None:
    """What concerns all programs: a gateway that does not answer, and the shell if it was not named."""
    from gpumand.cli.connect.connecting import why_no_answer

    if not any(one.program == "shell" for one in steps):
        click.echo("Other programs of this user follow the variables of: gpumanctl connect shell")
    why = why_no_answer(target.url)
    if why:
        start = "Start it: sudo systemctl enable --now gpumand-gateway.socket"
        fix = start if _is_this_host(target.url) else "Check the gateway on that host"
        click.echo(f"Nothing answers at {target.url}: {why}. {fix}", err=True)


def _is_this_host(url: str) -> bool:
    """Whether a URL has a loopback address."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _exit_code(steps: Sequence[Step]) -> int:
    return ExitCode.FAILURE if any(one.reason for one in steps) else ExitCode.OK
