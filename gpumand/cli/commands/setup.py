"""``gpumanctl setup``: installs the system files of a gpumand that no distribution package has installed."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, global_options

if TYPE_CHECKING:
    from gpumand.host_setup.files import Installation, SetupFile
    from gpumand.host_setup.plan import Step

GLOBAL_INSTALL = "sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install gpumand"


@click.command(cls=Command)
@click.option("--remove", is_flag=True, help="Stop the services and remove the files that setup has written.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.pass_context
def setup(ctx: click.Context, remove: bool, dry_run: bool) -> int:
    """Install the system files of a gpumand from PyPI.

    These are units, bus policy, polkit files and accounts, which packages of distributions bring. Setup needs root, or
    --user for a gpumand of your own. Files that you have written or changed are never replaced or removed. Repeat it
    after an upgrade of gpumand.
    """
    user = global_options(ctx).user
    _check(user=user, dry_run=dry_run)
    if remove:
        return _remove(user=user, dry_run=dry_run)
    return _install(user=user, dry_run=dry_run)


def _check(*, user: bool, dry_run: bool) -> None:
    """Raise Failure if this installation, or this caller, cannot set gpumand up."""
    from gpumand.host_setup.files import PACKAGED

    packaged = next((path for path in PACKAGED if path.exists()), None)
    if packaged is not None:
        start = f"systemctl {'--user ' if user else ''}enable --now gpumand.socket gpumand.service"
        raise Failure(
            ExitCode.FAILURE,
            f"a package of the distribution has installed gpumand ({packaged} exists), so that there is nothing to set "
            f"up. To start it: {start}",
        )
    if user and os.geteuid() == 0 and not dry_run:
        message = "root has no gpumand of its own. Run it as the user, or without --user for the system"
        raise Failure(ExitCode.USAGE, message)
    if not user and os.geteuid() != 0 and not dry_run:
        raise Failure(ExitCode.FAILURE, "only root can set up the system's gpumand. Use sudo, --dry-run, or --user")


def _install(*, user: bool, dry_run: bool) -> int:
    from gpumand.host_setup.files import Installation
    from gpumand.host_setup.plan import Manifest, installation_steps
    from gpumand.host_setup.services import start_commands

    installation = Installation.this()
    files = _files(installation, user=user)
    _check_paths(files, installation, user=user)
    manifest = Manifest.read(_record(user=user))
    steps = installation_steps(files, manifest)
    _print(steps)
    if not dry_run:
        _apply(steps, user=user)
    return _run(start_commands(user=user), user=user, dry_run=dry_run)


def _remove(*, user: bool, dry_run: bool) -> int:
    from gpumand.host_setup.plan import Manifest, removal_steps
    from gpumand.host_setup.services import after_removal_commands, stop_commands

    record = _record(user=user)
    steps = removal_steps(Manifest.read(record))
    if not steps:
        click.echo(f"Nothing to remove: {record} records no files.")
        return ExitCode.OK
    code = _run(stop_commands(user=user), user=user, dry_run=dry_run)
    _print(steps)
    if not dry_run:
        _apply(steps, user=user)
    code = _run(after_removal_commands(user=user), user=user, dry_run=dry_run) or code
    if not user:
        click.echo("/etc/gpumand, /var/lib/gpumand and the accounts stay. To remove them too:")
        click.echo(
            "    rm -r /etc/gpumand /var/lib/gpumand; userdel _gpumand; userdel _gpumand-gateway; "
            "userdel _gpumand-fleet; groupdel gpumand"
        )
    return code


def _files(installation: Installation, *, user: bool) -> list[SetupFile]:
    from gpumand.host_setup.files import system_files, user_files

    return user_files(installation, Path.home(), os.environ) if user else system_files(installation)


def _record(*, user: bool) -> Path:
    from gpumand.host_setup.files import system_manifest, user_manifest

    return user_manifest(Path.home(), os.environ) if user else system_manifest()


def _check_paths(files: list[SetupFile], installation: Installation, *, user: bool) -> None:
    """Raise Failure if units could not name these paths, or if root would run what other users can change."""
    from gpumand.host_setup.files import quoted_paths
    from gpumand.host_setup.trust import why_not_trusted

    odd = quoted_paths(files, installation)
    if odd:
        message = f"{odd[0]} has characters that units cannot contain. Install gpumand in a folder with a plain name"
        raise Failure(ExitCode.FAILURE, message)
    packages = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    folders = (installation.python, installation.programs, *map(Path, packages), Path(__file__).parents[2])
    reason = "" if user else why_not_trusted(folders)
    if reason:
        raise Failure(ExitCode.FAILURE, f"{reason}. Install gpumand for the system: {GLOBAL_INSTALL}")


def _print(steps: Iterable[Step]) -> None:
    from gpumand.host_setup.plan import Action

    for one in steps:
        kept = " (it was not written by setup, or has been changed since)" if one.action is Action.KEEP else ""
        click.echo(f"{one.action:9} {one.place}{kept}")


def _apply(steps: list[Step], *, user: bool) -> None:
    from gpumand.host_setup.apply import apply_steps
    from gpumand.host_setup.plan import Manifest

    record = _record(user=user)
    try:
        apply_steps(steps, record, Manifest.read(record))
    except OSError as error:
        message = f"cannot write {error.filename}: {error.strerror}. Fix that, and run setup again to complete it"
        raise Failure(ExitCode.FAILURE, message) from error


def _run(commands: list[tuple[str, ...]], *, user: bool, dry_run: bool) -> int:
    """Run commands; a failure of one does not stop the others. Without systemd they are printed only."""
    from gpumand.host_setup.services import CommandFailed, is_systemd_running, run

    if not is_systemd_running(user=user):
        click.echo("systemd does not run here. Once it does, run:")
        dry_run = True
    code = ExitCode.OK
    for command in commands:
        click.echo(f"run       {' '.join(command)}")
        if dry_run:
            continue
        try:
            run(command)
        except CommandFailed as failure:
            click.echo(f"gpumanctl: {failure}", err=True)
            code = ExitCode.FAILURE
    return code
