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
    from gpumand.fleet.config import load, unreadable_files

    return unreadable_files(load(file))


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
