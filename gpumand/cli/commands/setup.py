"""``gpumanctl setup``: from an installed package to a working gpumand."""

from __future__ import annotations

import sys

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, global_options


@click.command(cls=Command)
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: answer every question with its default.")
@click.option(
    "--gateway/--no-gateway",
    default=None,
    help="Put the gateway in front of the services, which restarts them, or leave it out. Default: ask; no with --yes.",
)
@click.option("--files-only", is_flag=True, help="Write the system files and start gpumand, and nothing else.")
@click.option("--remove", is_flag=True, help="Stop the services and remove the system files that setup has written.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.pass_context
def setup(ctx: click.Context, yes: bool, gateway: bool | None, files_only: bool, remove: bool, dry_run: bool) -> int:
    """Set gpumand up, from its files to the first lease.

    It asks before each step; --yes takes the defaults. System files (units, bus policy, polkit files and accounts) are
    written only where no package of the distribution has brought them. Services that are found and not configured yet
    are added to the configuration in a new file. Files that you have written or changed are never replaced or removed.
    It needs root, or --user for a gpumand of your own. Repeat it after an upgrade, or when there are new services.
    """
    from gpumand.cli.setup import system_files

    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with setup: it asks questions")
    if remove and (yes or files_only or gateway is not None):
        raise click.UsageError("--remove goes only with --dry-run and --user")
    if gateway and (options.user or files_only):
        raise click.UsageError(f"--gateway does not go with {'--user' if options.user else '--files-only'}")
    if files_only or remove:
        system_files.check_not_packaged()
    if not dry_run and (yes or files_only or remove or _has_terminal()):
        system_files.check_rights(user=options.user)
    if remove:
        return system_files.remove(user=options.user, dry_run=dry_run)
    if files_only:
        return system_files.install(user=options.user, dry_run=dry_run)
    return _wizard(ctx, yes=yes, gateway=gateway, dry_run=dry_run)


def _wizard(ctx: click.Context, *, yes: bool, gateway: bool | None, dry_run: bool) -> int:
    """All steps. Without a terminal and without --yes, only say what they would be."""
    import logging

    from gpumand.cli.setup.commands import as_typed
    from gpumand.cli.setup.dialog import Dialog
    from gpumand.cli.setup.wizard import Choices, Wizard

    logging.getLogger("gpumand").addHandler(logging.NullHandler())  # failed reads are part of what is printed
    is_allowed = yes or _has_terminal()
    choices = Choices(gateway, changes=is_allowed and not dry_run)
    try:
        code = Wizard(global_options(ctx), choices, Dialog(is_asking=not yes and _has_terminal())).run()
    except (click.Abort, KeyboardInterrupt):
        again = as_typed(global_options(ctx), "setup")
        click.echo(f"\nStopped. What was done before stays. To go on with the other steps: {again}", err=True)
        raise click.Abort from None
    if not is_allowed and not dry_run:
        raise Failure(ExitCode.USAGE, "there is no terminal for questions. To carry this out: gpumanctl setup --yes")
    return code


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
