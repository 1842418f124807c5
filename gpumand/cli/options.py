"""The options that every command takes, before the command's name and after it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import click

ADDRESS_VARIABLE = "GPUMAND_BUS_ADDRESS"


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What was said about output and the bus.

    Attributes:
        json: nothing but JSON on stdout.
        pager: whether a long text may go through a pager.
        legend: whether tables have headings.
        quiet: say nothing but what was asked for.
        verbose: tell what happens while waiting, also where no terminal is.
        user: the session bus.
        bus_address: any other bus; "" = none named.
    """

    json: bool = False
    pager: bool = True
    legend: bool = True
    quiet: bool = False
    verbose: bool = False
    user: bool = False
    bus_address: str = ""


def global_options(ctx: click.Context) -> GlobalOptions:
    """What was said anywhere on this command line.

    Raises:
        click.UsageError: for options that exclude each other.
    """
    said = ctx.ensure_object(dict)
    options = GlobalOptions(**said)
    if options.user and options.bus_address:
        raise click.UsageError("--user and --bus-address exclude each other")
    if not options.user and not options.bus_address:
        return replace(options, bus_address=os.environ.get(ADDRESS_VARIABLE, ""))
    return options


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Keep an option that was given; one that was not must not undo what was said before the command."""
    if value:
        name, meant = _MEANINGS.get(str(param.name), (str(param.name), value))
        ctx.ensure_object(dict)[name] = meant
    return value


_MEANINGS = {"no_pager": ("pager", False), "no_legend": ("legend", False)}


def _flag(*names: str, text: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_note, help=text)


def shared_params() -> list[click.Parameter]:
    """New instances of the options that every command takes."""
    return [
        _flag("--json", text="Print one JSON document (monitor: one a line), keys as on the bus."),
        _flag("--no-pager", text="Do not pipe long output into a pager."),
        _flag("--no-legend", text="Print tables without headings."),
        _flag("-q", "--quiet", text="Print only what was asked for: no progress, no remarks."),
        _flag("-v", "--verbose", text="Tell what happens while waiting, also without a terminal."),
        _flag("--user", text="Ask the gpumand of this user session, on the session bus."),
        click.Option(
            ["--bus-address"],
            metavar="ADDRESS",
            expose_value=False,
            callback=_note,
            help=f"Ask the gpumand on the bus at this D-Bus address; default: what {ADDRESS_VARIABLE} says.",
        ),
    ]


class Command(click.Command):
    """A command that takes the shared options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_params()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What is special about this command first, then what all commands share."""
        records = [
            (param, param.get_help_record(ctx)) for param in self.get_params(ctx) if isinstance(param, click.Option)
        ]
        shared = [record for param, record in records if record and param.name in SHARED]
        own = [record for param, record in records if record and param.name not in SHARED]
        for title, rows in (("Options", own), ("Options of every command", shared)):
            with formatter.section(title):
                formatter.write_dl(rows)


SHARED = {param.name for param in shared_params()}
