"""``gpumanctl demo``: runs the demonstration, which is a program of its own."""

from __future__ import annotations

import os
import sys

import click

from gpumand.cli.options import Command, global_options


@click.command(cls=Command)
@click.option("--faults", is_flag=True, help="Show what gpumand does when services, clients or the daemon fail.")
@click.option("--run", "keep_running", is_flag=True, help="Leave everything running to try commands, until Ctrl-C.")
@click.pass_context
def demo(ctx: click.Context, faults: bool, keep_running: bool) -> None:
    """Show gpumand at work with a simulated GPU.

    The daemon, three services and their bus are real processes that end with the command. It needs dbus-daemon, but no
    GPU, no root privileges and no running gpumand. With --verbose it prints every check instead of a summary.
    """
    options = global_options(ctx)
    if faults and keep_running:
        raise click.UsageError("--faults and --run exclude each other; give only one of them")
    if options.json:
        raise click.UsageError("demo has no JSON output; run it without --json")
    given = {"--faults": faults, "--run": keep_running, "--verbose": options.verbose}
    flags = [flag for flag, is_given in given.items() if is_given]
    sys.stdout.flush()
    # -P: a folder "gpumand" in the current directory is not imported instead of this one.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "gpumand.demo", *flags])
