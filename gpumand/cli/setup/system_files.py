"""Writes and removes the system files of a gpumand that no distribution package has installed."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_setup import DROP_IN, UNIT_FOLDER, WAY_BACK
from gpumand.cli.swap_undo.lock import LOCK, forget
from gpumand.host_setup.apply import apply_steps
from gpumand.host_setup.files import (
    PACKAGED,
    Installation,
    SetupFile,
    quoted_paths,
    system_files,
    system_manifest,
    user_files,
    user_manifest,
)
from gpumand.host_setup.plan import Action, Manifest, Step, installation_steps, removal_steps
from gpumand.host_setup.services import (
    CommandFailed,
    after_removal_commands,
    is_systemd_running,
    run,
    start_commands,
    stop_commands,
)
from gpumand.host_setup.trust import why_not_trusted

GLOBAL_INSTALL = "sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install ./gpumand-*.whl"
SUDO_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def packaged_unit() -> Path | None:
    """The unit that a package of the distribution has installed; None without one."""
    return next((path for path in PACKAGED if path.exists()), None)


def check_rights(*, user: bool) -> None:
    """Raise Failure if this caller cannot set gpumand up."""
    if user and os.geteuid() == 0:
        message = "root has no gpumand of its own. Run it as the user, or without --user for the system"
        raise Failure(ExitCode.USAGE, message)
    if not user and os.geteuid() != 0:
        line = f"sudo {shlex.join((_own_path(), *sys.argv[1:]))}"
        raise Failure(ExitCode.FAILURE, f"only root can set up the system's gpumand. Run: {line}")


def check_not_packaged() -> None:
    """Raise Failure if a package of the distribution brings the files."""
    packaged = packaged_unit()
    if packaged is not None:
        what = f"a package of the distribution has installed gpumand ({packaged} exists)"
        message = f"{what}, so that there are no files to write. For the other steps: gpumanctl setup"
        raise Failure(ExitCode.FAILURE, message)


def count_of_changes(*, user: bool) -> int:
    """The number of files that ``install`` would write or remove. Raises Failure if it would refuse to."""
    return sum(one.action in (Action.CREATE, Action.UPDATE, Action.REMOVE) for one in _installation(user=user))


def install(*, user: bool, dry_run: bool, is_verbose: bool = True) -> int:
    """Write the files and start the services. Returns the exit code; raises Failure.

    Args:
        user: for the gpumand of this user.
        dry_run: only print what would be done.
        is_verbose: print every file, not only those that are kept.
    """
    steps = _installation(user=user)
    _print(one for one in steps if is_verbose or one.action is Action.KEEP)
    if not dry_run:
        _apply(steps, user=user)
    return _run(start_commands(user=user), user=user, dry_run=dry_run)


def _installation(*, user: bool) -> list[Step]:
    installation = Installation.this()
    files = _files(installation, user=user)
    _check_paths(files, installation, user=user)
    return installation_steps(files, Manifest.read(_record(user=user)))


def remove(*, user: bool, dry_run: bool) -> int:
    """Stop the services and remove the files that setup has written. Returns the exit code; raises Failure."""
    record = _record(user=user)
    steps = removal_steps(Manifest.read(record))
    if not steps:
        click.echo(f"Nothing to remove: {record} records no files.")
        return ExitCode.OK
    code = _run(stop_commands(user=user), user=user, dry_run=dry_run)
    _print(steps)
    if not dry_run:
        _apply(steps, user=user)
        if not user:
            forget(LOCK)
    code = _run(after_removal_commands(user=user), user=user, dry_run=dry_run) or code
    if not user:
        click.echo("/etc/gpumand, /var/lib/gpumand and the accounts stay. To remove them too:")
        click.echo(
            "    rm -r /etc/gpumand /var/lib/gpumand; userdel _gpumand; userdel _gpumand-notify; "
            "userdel _gpumand-gateway; userdel _gpumand-fleet; groupdel gpumand"
        )
        _name_moved_services()
    return code


def _name_moved_services() -> None:
    """Print the drop-ins of the gateway: they belong to the administrator, and a restart would end requests."""
    moved = sorted(UNIT_FOLDER.glob(f"*.service.d/{DROP_IN}"))
    if moved:
        units = shlex.join(path.parent.name.removesuffix(".d") for path in moved)
        click.echo("These services are still at the port to which the gateway has moved them. To move them back:")
        click.echo(f"    {shlex.join((_own_path(), 'init', '--undo'))}")
        click.echo("Without gpumanctl:")
        for line in filter(None, map(_old_url, moved)):
            click.echo(f"    {line}")
        # Sockets of gpumanctl gateway sockets keep the old ports open, so that no service could listen there.
        sockets = sorted(UNIT_FOLDER.glob("gpumand-gateway-*.socket"))
        if sockets:
            click.echo(f"    systemctl disable --now {' '.join(one.name for one in sockets)}")
        click.echo(f"    rm {shlex.join(map(str, (*moved, *sockets)))}")
        click.echo(f"    systemctl daemon-reload; systemctl try-restart {units}")
        click.echo("Programs with the settings of gpumanctl connect get their own back from: gpumanctl disconnect")


def _old_url(drop_in: Path) -> str:
    """What the first line of a drop-in says about the url; "" for a drop-in of another origin."""
    try:
        first = drop_in.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return f"set {first.removeprefix(WAY_BACK)}" if first.startswith(WAY_BACK) else ""


def _own_path() -> str:
    """This program as sudo finds it: by its name only in the folders that sudo searches."""
    path = Path(sys.argv[0]).absolute()
    return path.name if str(path.parent) in SUDO_FOLDERS else str(path)


def _files(installation: Installation, *, user: bool) -> list[SetupFile]:
    return user_files(installation, Path.home(), os.environ) if user else system_files(installation)


def _record(*, user: bool) -> Path:
    return user_manifest(Path.home(), os.environ) if user else system_manifest()


def _check_paths(files: list[SetupFile], installation: Installation, *, user: bool) -> None:
    """Raise Failure if units could not name these paths, or if root would run what other users can change."""
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
    for one in steps:
        kept = " (it was not written by setup, or has been changed since)" if one.action is Action.KEEP else ""
        click.echo(f"{one.action:9} {one.place}{kept}")


def _apply(steps: list[Step], *, user: bool) -> None:
    record = _record(user=user)
    try:
        apply_steps(steps, record, Manifest.read(record))
    except OSError as error:
        message = f"cannot write {error.filename}: {error.strerror}. Fix that, and run setup again to complete it"
        raise Failure(ExitCode.FAILURE, message) from error


def _run(commands: list[tuple[str, ...]], *, user: bool, dry_run: bool) -> int:
    """Run commands; a failure of one does not stop the others. Without systemd they are printed only."""
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
