"""``gpumanctl doctor``: finds faults of this installation and shows how to fix them."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click

from gpumand.cli.errors import ExitCode
from gpumand.cli.options import Command, global_options
from gpumand.cli.output import print_json, print_lines, theme_for


@click.command(cls=Command)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Configuration to check. Default: that of the running gpumand, else /etc/gpumand.",
)
@click.pass_context
def doctor(ctx: click.Context, config: Path | None) -> int:
    """Diagnose this installation and suggest fixes.

    Checks the bus, polkit, the driver, the configuration, and the units and health routes of consumers. It changes
    nothing, starts nothing, and needs no running gpumand. Some checks need root. The exit code is 1 when a problem or
    a warning was found.
    """
    from gpumand.cli.doctor.checks import examine
    from gpumand.cli.doctor.collect import collect_facts
    from gpumand.cli.doctor.finding import WRONG
    from gpumand.cli.render.doctor import as_json, doctor_lines

    options = global_options(ctx)
    logging.getLogger("gpumand").addHandler(logging.NullHandler())  # failed reads become findings, not log lines
    found = examine(asyncio.run(collect_facts(options, config)))
    is_healthy = not any(one.severity in WRONG for ones in found.values() for one in ones or ())
    if options.json:
        print_json(as_json(found, is_healthy))
    else:
        print_lines(doctor_lines(found, theme_for(sys.stdout, options)), options)
    return ExitCode.OK if is_healthy else ExitCode.FAILURE
