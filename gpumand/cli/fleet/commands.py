"""The commands that work with ``--fleet``: each is the command of the same name, for all hosts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from gpumand.cli.acquire_options import AcquireOptions, resolve_timeout
from gpumand.cli.fleet.api import FleetApi, socket_path
from gpumand.cli.options import global_options
from gpumand.cli.output import print_json, print_lines, theme_for

Params = Mapping[str, Any]

ONE_HOST_OPTIONS = {
    "vram": "--vram",
    "whole": "--all",
    "ttl": "--ttl",
    "token": "--token",
    "yield_lease": "--yield",
    "svg": "--svg",
}
"""Options that only make sense on one host, by parameter."""


def run_on_fleet(ctx: click.Context) -> Any:
    """Run a command for all hosts. Raises UsageError for a command, or an option, that is for one host."""
    name = ctx.command.name or ""
    work = COMMANDS.get(name)
    if work is None:
        raise click.UsageError(f"--fleet does not work with {name}; it works with {', '.join(COMMANDS)}", ctx)
    for parameter, option in ONE_HOST_OPTIONS.items():
        if ctx.params.get(parameter):
            raise click.UsageError(f"{option} does not work with --fleet: it is for one host", ctx)
    return work(ctx, ctx.params)


def _api(ctx: click.Context) -> FleetApi:
    return FleetApi(socket_path(global_options(ctx)))


def _status(ctx: click.Context, _: Params) -> None:
    options, hosts = global_options(ctx), _api(ctx).hosts()
    if options.json:
        return print_json(hosts)
    from gpumand.cli.render.fleet import fleet_lines

    return print_lines(fleet_lines(hosts, theme_for(sys.stdout, options)), options)


def _top(ctx: click.Context, params: Params) -> int:
    from gpumand.cli.fleet.top import show_top

    return show_top(_api(ctx), global_options(ctx), params["interval"], once=params["once"])


def _plan(ctx: click.Context, params: Params) -> None:
    options = global_options(ctx)
    body = _given(
        consumer=_consumer(ctx, params), priority=params["priority"], device=params["device"], on=params["on"]
    )
    plan = _api(ctx).post("plan", body)
    if options.json:
        return print_json(plan)
    from gpumand.cli.render.fleet import plan_lines

    return print_lines(plan_lines(plan, theme_for(sys.stdout, options)), options)


def _load(ctx: click.Context, params: Params) -> None:
    options, wait_sec = global_options(ctx), resolve_timeout(params["timeout"], params["wait_mode"])
    body = _given(consumer=params["consumer"], device=params["device"], on=params["on"]) | {"wait_sec": wait_sec}
    outcome = _api(ctx).post("load", body, wait_sec)
    if options.json:
        return print_json(outcome)
    if not options.quiet:
        from gpumand.cli.render.fleet import load_line

        print(load_line(params["consumer"], outcome))
    return None


def drain(ctx: click.Context, params: Params) -> None:
    """Drain a host, or end its drain, which the name of the command says."""
    is_drain = ctx.command.name == "drain"
    outcome = _api(ctx).post("drain", {"on": params["host"], "drain": is_drain})
    options = global_options(ctx)
    if options.json:
        return print_json(outcome)
    if not options.quiet:
        from gpumand.cli.render.fleet import text

        drained = "is drained: it takes no new requests of the fleet, and its leases go on"
        print(f"{text(outcome, 'host') or params['host']} {drained if is_drain else 'takes requests again'}")
    if outcome.get("lasting") is False:
        print(f"gpumanctl: {_not_lasting(params['host'])}", file=sys.stderr)
    return None


def _not_lasting(host: str) -> str:
    """Words for a drain that the store does not keep."""
    end = "the drain ends when gpumand-fleet restarts there, because the store does not keep it"
    return f"{end}. Drain it again then: gpumanctl --fleet drain {host}"


def _acquire(ctx: click.Context, params: Params) -> int:
    from gpumand.cli.fleet.leasing import hold_lease

    if params["lifetime"] == "unit":
        raise click.UsageError(
            "--lifetime unit does not work with --fleet: the lease lasts as long as this command", ctx
        )
    return hold_lease(socket_path(global_options(ctx)), _request(ctx, params), global_options(ctx))


def _run(ctx: click.Context, params: Params) -> int:
    from gpumand.cli.fleet.leasing import run_command

    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with run: standard output belongs to the command", ctx)
    request = _request(ctx, params)
    return run_command(socket_path(options), request, params["command"], options, kill_on_loss=params["kill_on_loss"])


def _request(ctx: click.Context, params: Params) -> dict[str, Any]:
    """The body of an acquire."""
    request = AcquireOptions.from_arguments("connection", params)
    given = _given(
        consumer=_consumer(ctx, params),
        priority=request.priority,
        device=request.device,
        reason=request.reason,
        restore=request.restore,
        exclusive=request.exclusive,
        on=params["on"],
    )
    return given | {"wait_sec": request.timeout_sec}


def _consumer(ctx: click.Context, params: Params) -> str:
    if not params["consumer"]:
        raise click.UsageError("give a CONSUMER: --fleet finds a host by it", ctx)
    return str(params["consumer"])


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", False)}


COMMANDS: dict[str, Callable[[click.Context, Params], Any]] = {
    "status": _status,
    "top": _top,
    "plan": _plan,
    "acquire": _acquire,
    "run": _run,
    "load": _load,
    "drain": drain,
    "undrain": drain,
}
"""Command -> what it does with ``--fleet``."""
