"""``doctor``: what is wrong with this set-up, and what mends it."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click

from gpumand.cli.errors import ExitCode
from gpumand.cli.options import Command, global_options
from gpumand.cli.output import look_of, print_json, print_lines


@click.command(cls=Command)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration to look at; default: that of the running gpumand, or /etc/gpumand.",
)
@click.pass_context
def doctor(ctx: click.Context, config: Path | None) -> int:
    """Look for what is wrong, and say what mends it.

    Looks at the bus, polkit, the driver, the configuration, units and health routes of consumers; changes nothing and
    starts nothing, and needs no running gpumand. As root it sees more. Exits 1 when it found a problem or a warning.
    """
    from gpumand.cli.doctor.checks import examine
    from gpumand.cli.doctor.collect import look
    from gpumand.cli.doctor.finding import WRONG
    from gpumand.cli.render.doctor import as_json, doctor_lines

    options = global_options(ctx)
    logging.getLogger("gpumand").addHandler(logging.NullHandler())  # what could not be seen is a finding
    found = examine(asyncio.run(look(options, config)))
    is_well = not any(one.severity in WRONG for ones in found.values() for one in ones or ())
    if options.json:
        print_json(as_json(found, is_well))
    else:
        print_lines(doctor_lines(found, look_of(sys.stdout, options)), options)
    return ExitCode.OK if is_well else ExitCode.FAILURE
