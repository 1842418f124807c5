"""``gpumanctl help``: the same text as ``--help``, for gpumanctl or for one of its commands."""

from __future__ import annotations

import click

from gpumand.cli.options import Command


def _commands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    group = ctx.find_root().command
    names = group.list_commands(ctx) if isinstance(group, click.Group) else []
    return [name for name in names if name.startswith(incomplete)]


@click.command("help", cls=Command)
@click.argument("command", nargs=-1, shell_complete=_commands)
@click.pass_context
def help_command(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of gpumanctl, or of COMMAND."""
    context, words = ctx.find_root(), list(command)
    while words and isinstance(context.command, click.Group):
        name, found, words = context.command.resolve_command(context, words)
        if found is None:
            break
        context = click.Context(found, info_name=name, parent=context, **found.context_settings)
    if words:
        raise click.UsageError(f"{context.command_path} has no command {words[0]}", ctx)
    click.echo(context.get_help())
