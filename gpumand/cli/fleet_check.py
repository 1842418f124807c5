"""``gpumanctl config-check`` of fleet.toml: the errors of the file, and warnings about the files that it names."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gpumand.cli.errors import ExitCode
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import print_json
from gpumand.cli.render.format import clean
from gpumand.config.problems import ConfigProblems


def fleet_warnings(file: Path) -> list[str]:
    """Warnings about a valid configuration of the fleet, one line each. Raises ConfigProblems for an invalid one."""
    from gpumand.cli.fleet_setup.folders import Folders
    from gpumand.cli.fleet_unique import unique_warnings
    from gpumand.fleet.config import load, unreadable_files

    settings = load(file)
    member = Folders(file.parent).member.certificate
    own = () if settings.tls is None else _expiry(settings.tls.certificate, settings.host)
    expiring = [*own, *_expiry(member, f"{settings.host} --etcd")]
    return [*unreadable_files(settings), *expiring, *unique_warnings(file.parent, settings)]


def _expiry(certificate: Path, invited: str) -> list[str]:
    """A warning about a certificate that expires soon, if it can be read.

    Args:
        certificate: the file.
        invited: arguments of ``gpumanctl fleet invite`` for a new one.
    """
    from gpumand.fleet.certificates import RENEW_DAYS, BadCertificate, is_available, read_host

    if not is_available():
        return []
    try:
        days = read_host(certificate.read_bytes()).days_left()
    except OSError:
        return []  # reported as a file that cannot be read; without a member of etcd it does not exist
    except BadCertificate as error:
        return [f"{certificate}: {error}"]
    if days > RENEW_DAYS:
        return []
    when = "has expired" if days < 0 else f"expires in {days} days"
    renew = f"gpumanctl fleet invite {invited} on the host that created the fleet, and gpumanctl fleet join --replace"
    return [f"{certificate} {when}. Renew it: {renew}"]


def check_fleet_file(file: Path, options: GlobalOptions) -> None:
    """Check the file and print the result. Raises Exit for an invalid configuration."""
    try:
        warnings = fleet_warnings(file)
    except ConfigProblems as error:
        for problem in error.problems:
            print(clean(str(problem)), file=sys.stderr)
        raise click.exceptions.Exit(ExitCode.FAILURE) from None
    if options.json:
        return print_json({"path": str(file)} | ({"warnings": warnings} if warnings else {}))
    for one in warnings:
        print(f"warning: {clean(one)}.", file=sys.stderr)
    if not options.quiet:
        print(f"The configuration of the fleet in {clean(file)} is valid.")
    return None
