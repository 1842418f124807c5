"""``preset list`` and ``preset show``: what ships with gpumand; needs no running daemon."""

from __future__ import annotations

import sys
from typing import Any

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, global_options, shared_params
from gpumand.cli.output import look_of, print_json, print_lines


class _Group(click.Group):
    """A group whose commands take the shared options too; a preset's name in place of a command says what was meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_params()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what there is, in the words of gpumanctl itself."""
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            raise click.UsageError(f"no such command: preset {name}; did you mean preset {_meant(name)}?", ctx)
        return super().resolve_command(ctx, args)


def _meant(word: str) -> str:
    from gpumand.config.presets import preset_names
    from gpumand.domain.name_suggestions import nearest

    near = nearest(word, preset_names())
    return f"show {near}" if near else "list"


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from gpumand.config.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


@click.group(cls=_Group, invoke_without_command=True)
@click.pass_context
def preset(ctx: click.Context) -> None:
    """List presets, or show one: preset [list | show NAME].

    A preset has the routes of a server that many run: how it loads, unloads, and says how it is. A consumer names one
    in the configuration with preset = "NAME". Needs no running gpumand.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_presets)


@preset.command("list", cls=Command)
@click.pass_context
def list_presets(ctx: click.Context) -> None:
    """List the presets that ship with gpumand."""
    from gpumand.cli.render.presets import list_lines, listed
    from gpumand.config.presets import preset as read
    from gpumand.config.presets import preset_names

    presets = [read(name) for name in preset_names()]
    options = global_options(ctx)
    if options.json:
        return print_json([listed(one) for one in presets])
    return print_lines(list_lines(presets, look_of(sys.stdout, options)), options)


@preset.command("show", cls=Command)
@click.argument("name", shell_complete=_names)
@click.pass_context
def show(ctx: click.Context, name: str) -> None:
    """Show a preset: its routes, what it needs, what to know, and what to write to use it."""
    from gpumand.cli.render.presets import show_lines, shown
    from gpumand.config.presets import preset as read
    from gpumand.config.presets import preset_names
    from gpumand.domain.name_suggestions import nearest

    if name not in preset_names():
        near = nearest(name, preset_names())
        hint = f"; did you mean {near}?" if near else "; gpumanctl preset list has them"
        raise Failure(ExitCode.NO_SUCH, f"no preset is named {name}{hint}")
    options = global_options(ctx)
    if options.json:
        return print_json(shown(read(name)))
    return print_lines(show_lines(read(name), look_of(sys.stdout, options)), options)
