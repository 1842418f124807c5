"""``gpumanctl fleet join``: writes the files of an invitation on the invited host."""

from __future__ import annotations

from pathlib import Path

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet_setup.bundle import Bundle
from gpumand.cli.fleet_setup.files import NewFile, back_up, write_new
from gpumand.cli.fleet_setup.folders import Folders
from gpumand.cli.fleet_setup.founding import host_files, member_files, own_machine_id, password_file
from gpumand.cli.fleet_setup.toml_text import fleet_toml
from gpumand.fleet.certificates import BadCertificate, check_host


def files_of(bundle: Bundle, folders: Folders) -> list[NewFile]:
    """The files that an invitation contains. Raises Failure for an invitation that is not for this host."""
    _check(bundle)
    files = host_files(folders, bundle.ca, bundle.pair)
    if bundle.password:
        files.append(password_file(folders.password, bundle.password))
    if bundle.member is not None:
        files += member_files(folders, bundle.ca, bundle.member)
    return [*files, NewFile(folders.config, fleet_toml(bundle.plan, folders).encode())]


def _check(bundle: Bundle) -> None:
    own = own_machine_id()
    if bundle.machine_id != own:
        what = f"the invitation is for a host with the machine id {bundle.machine_id}, and this host has {own}"
        advice = f"Invite this host: gpumanctl fleet invite {bundle.plan.host} --machine-id {own}"
        raise Failure(ExitCode.FAILURE, f"{what}. {advice}")
    try:
        check_host(bundle.pair, bundle.ca, bundle.plan.host)
    except BadCertificate as error:
        raise Failure(ExitCode.FAILURE, f"the invitation cannot be used: {error}") from None


def join(files: list[NewFile], folders: Folders, *, replace: bool) -> tuple[list[Path], list[Path]]:
    """Write the files; return those that were written and the backups of replaced ones. Raises Failure.

    An existing configuration stays in any case, since it may have been edited.
    """
    wanted = [one for one in files if one.path != folders.config or not folders.config.exists()]
    existing = [one.path for one in wanted if one.path.exists()]
    if existing and not replace:
        names = ", ".join(map(str, existing))
        raise Failure(
            ExitCode.FAILURE, f"this host is in a fleet already ({names}). To renew its certificate: --replace"
        )
    backups = back_up(existing)
    write_new(wanted)
    return [one.path for one in wanted], backups
