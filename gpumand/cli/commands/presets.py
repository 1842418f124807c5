"""``gpumanctl preset list`` and ``preset show``: the presets that ship with gpumand. Needs no running daemon."""

from __future__ import annotations

import sys

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, Group, global_options
from gpumand.cli.output import print_json, print_lines, theme_for


class _PresetGroup(Group):
    """The command group ``preset``, which suggests ``preset show`` for the name of a preset."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Look a subcommand up; the error for an unknown one suggests a command."""
        name = args[0]
        # Shell completion looks up the words typed so far, and must not fail.
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no such command: preset {name}; did you mean preset {_suggestion(name)}?", ctx)
        return super().resolve_command(ctx, args)


def _suggestion(word: str) -> str:
    from gpumand.config.presets import preset_names
    from gpumand.domain.name_suggestions import nearest

    near = nearest(word, preset_names())
    return f"show {near}" if near else "list"


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from gpumand.config.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


@click.group(cls=_PresetGroup, invoke_without_command=True)
@click.pass_context
def preset(ctx: click.Context) -> None:
    """List presets, or show one: preset [list | show NAME].

    A preset contains the HTTP routes of a common server: load, unload and health check. A consumer uses a preset by
    preset = "NAME" in the configuration. Needs no running gpumand.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_presets)


@preset.command("list", cls=Command)
@click.pass_context
def list_presets(ctx: click.Context) -> None:
    """List the presets that ship with gpumand."""
    from gpumand.cli.render.presets import list_lines, summary_json
    from gpumand.config.presets import preset as read
    from gpumand.config.presets import preset_names

    presets = [read(name) for name in preset_names()]
    options = global_options(ctx)
    if options.json:
        return print_json([summary_json(one) for one in presets])
    return print_lines(list_lines(presets, theme_for(sys.stdout, options)), options)


@preset.command("show", cls=Command)
@click.argument("name", shell_complete=_names)
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """Show a preset: routes, requirements, notes and configuration."""
    from gpumand.cli.render.presets import preset_json, show_lines
    from gpumand.config.presets import preset as read
    from gpumand.config.presets import preset_names
    from gpumand.domain.name_suggestions import nearest

    if name not in preset_names():
        near = nearest(name, preset_names())
        hint = f"; did you mean {near}?" if near else "; list the presets with: gpumanctl preset list"
        raise Failure(ExitCode.NO_SUCH, f"no preset is named {name}{hint}")
    options = global_options(ctx)
    if options.json:
        return print_json(preset_json(read(name)))
    return print_lines(show_lines(read(name), theme_for(sys.stdout, options)), options)
