"""Options that every command accepts, before and after the command's name."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import click

ADDRESS_VARIABLE = "GPUMAND_BUS_ADDRESS"


class GlobalOptions(NamedTuple):
    """The shared options of one command line: output format and bus.

    Not a dataclass, whose module and class would take a part of the short time of ``gpumanctl version``.

    Attributes:
        json: print only JSON on stdout.
        pager: long output may go through a pager.
        legend: tables have headings.
        quiet: print no progress and no remarks.
        verbose: print progress while waiting, even without a terminal.
        user: use the session bus.
        bus_address: D-Bus address of another bus; "" = none given.
        fleet: use all hosts of the fleet, not only this one.
    """

    json: bool = False
    pager: bool = True
    legend: bool = True
    quiet: bool = False
    verbose: bool = False
    user: bool = False
    bus_address: str = ""
    fleet: bool = False


def global_options(ctx: click.Context) -> GlobalOptions:
    """The shared options that were given anywhere on this command line.

    Raises:
        click.UsageError: for options that exclude each other.
    """
    given = ctx.ensure_object(dict)
    options = GlobalOptions(**given)
    if options.user and options.bus_address:
        raise click.UsageError("--user and --bus-address exclude each other; give only one of them")
    if options.fleet and options.bus_address:
        raise click.UsageError("--fleet and --bus-address exclude each other; give only one of them")
    if not options.user and not options.bus_address:  # --user wins over the environment
        return options._replace(bus_address=os.environ.get(ADDRESS_VARIABLE, ""))
    return options


def command_line(options: GlobalOptions, *words: str) -> str:
    """A gpumanctl command for the gpumand that the options select, to copy into a shell."""
    from shlex import join

    bus: tuple[str, ...] = ("--user",) if options.user else ()
    if options.bus_address and options.bus_address != os.environ.get(ADDRESS_VARIABLE, ""):
        bus = ("--bus-address", options.bus_address)
    return join(("gpumanctl", *bus, *words))


def _record(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Store an option that was given.

    click calls this for options that were not given too. They must not overwrite an option that was given before the
    command's name.
    """
    if value:
        name, meaning = _NEGATED.get(str(param.name), (str(param.name), value))
        ctx.ensure_object(dict)[name] = meaning
    return value


_NEGATED = {"no_pager": ("pager", False), "no_legend": ("legend", False)}


def _flag(*names: str, text: str) -> click.Option:
    return click.Option(names, is_flag=True, expose_value=False, callback=_record, help=text)


def shared_params() -> list[click.Parameter]:
    """New instances of the options that every command accepts."""
    return [
        _flag("--json", text="Print one JSON document (monitor: one per line), with the keys of the D-Bus API."),
        _flag("--no-pager", text="Do not pipe long output into a pager."),
        _flag("--no-legend", text="Print tables without headings."),
        _flag("-q", "--quiet", text="Print only the result: no progress, no remarks."),
        _flag("-v", "--verbose", text="Print progress while waiting, even without a terminal."),
        _flag("--user", text="Use the gpumand of this user session, on the session bus."),
        _flag("--fleet", text="Use all hosts of the fleet, through the gpumand-fleet of this host."),
        click.Option(
            ["--bus-address"],
            metavar="ADDRESS",
            expose_value=False,
            callback=_record,
            help=f"Use the gpumand on the bus at this D-Bus address. Default: {ADDRESS_VARIABLE} in the environment.",
        ),
    ]


def shared_names() -> set[str | None]:
    """The names of the options that every command accepts; only the help and the man pages need them."""
    return {param.name for param in shared_params()}


class Group(click.Group):
    """A group of commands that accepts the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_params()


class Command(click.Command):
    """A click command that accepts the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_params()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command: for this host, or with --fleet for all hosts of the fleet."""
        if not global_options(ctx).fleet:
            return super().invoke(ctx)
        from gpumand.cli.fleet.commands import run_on_fleet

        return run_on_fleet(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options to the help: those of this command first, then the shared ones."""
        shared = shared_names()
        records = [
            (param, param.get_help_record(ctx)) for param in self.get_params(ctx) if isinstance(param, click.Option)
        ]
        common = [record for param, record in records if record and param.name in shared]
        own = [record for param, record in records if record and param.name not in shared]
        for title, rows in (("Options", own), ("Common options", common)):
            with formatter.section(title):
                formatter.write_dl(rows)
