"""``gpumanctl gateway``: shows ``gpumand-gateway`` at work, ends requests, and prepares its sockets."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumand.cli.commands.gateway_keys import key
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, Group, global_options
from gpumand.cli.output import print_json, print_lines, theme_for

if TYPE_CHECKING:
    from gpumand.cli.gateway_api import GatewayApi
    from gpumand.gateway.config import GatewaySettings

UNIT = "gpumand-gateway.service"


def _address_option(command: Any) -> Any:
    return click.option(
        "--address",
        metavar="ADDRESS",
        default="",
        help="Address of the gateway: HOST:PORT or unix:PATH. Default: GPUMAND_GATEWAY in the environment, or the "
        "socket of gpumand-gateway.socket.",
    )(command)


def _config_option(command: Any) -> Any:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration file of the gateway. Default: /etc/gpumand/gateway.toml.",
    )(command)


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def gateway(ctx: click.Context) -> None:
    """Show the gateway, and the requests in flight.

    The gateway holds leases for programs that only know an address, see gpumand-gateway(8). Without a command, the
    listeners and the requests in flight are shown.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(status)


gateway.add_command(key)


@gateway.command("status", cls=Command)
@_address_option
@click.pass_context
def status(ctx: click.Context, address: str = "") -> None:
    """Show the listeners and the requests in flight."""
    from gpumand.cli.render.gateway import state_lines

    options, state = global_options(ctx), _api(ctx, address).get("state")
    if options.json:
        return print_json(state)
    return print_lines(state_lines(state, time.time_ns() // 1000, theme_for(sys.stdout, options)), options)


@gateway.command("listeners", cls=Command)
@_address_option
@click.pass_context
def listeners(ctx: click.Context, address: str) -> None:
    """Show the addresses at which the gateway listens, with their consumers."""
    from gpumand.cli.render.gateway import listener_lines

    options, found = global_options(ctx), _api(ctx, address).get("listeners").get("listeners", [])
    if options.json:
        return print_json(found)
    return print_lines(listener_lines(found, theme_for(sys.stdout, options)), options)


@gateway.command("requests", cls=Command)
@_address_option
@click.pass_context
def requests(ctx: click.Context, address: str) -> None:
    """Show the requests in flight and the held jobs, the oldest first, and what each of them waits for.

    A job is a request that was answered before its work was done. The lease is held until the service is idle.
    """
    from gpumand.cli.render.gateway import request_lines

    options, found = global_options(ctx), _api(ctx, address).get("requests").get("requests", [])
    if options.json:
        return print_json(found)
    lines = request_lines(found, time.time_ns() // 1000, theme_for(sys.stdout, options))
    if not lines and not options.quiet:
        print("No request is in flight, and no job is held.")
    return print_lines(lines, options)


@gateway.command("cancel", cls=Command)
@_address_option
@click.argument("number", type=click.IntRange(0, 10**18))
@click.pass_context
def cancel(ctx: click.Context, address: str, number: int) -> None:
    """End a request in flight, or release the lease of a held job. NUMBER is that of gpumanctl gateway requests.

    The work of the job goes on in the service, which may be evicted then unless its own busy check forbids it.
    Needs root, unless an API key permits it on the web page.
    """
    from gpumand.cli.render.format import clean

    message = str(_api(ctx, address).post(f"requests/{number}/cancel").get("message", ""))
    options = global_options(ctx)
    if options.json:
        print_json({"cancelled": number} | ({"message": message} if message else {}))
    elif not options.quiet:
        print(clean(message) if message else f"Request {number} was ended.")


@gateway.command("reload", cls=Command)
@_config_option
@click.pass_context
def reload(ctx: click.Context, config: Path | None) -> None:
    """Check the configuration of the gateway and reload it; requests in flight go on."""
    import subprocess

    _settings(config)
    options = global_options(ctx)
    command = ["systemctl", *(["--user"] if options.user else []), "reload", UNIT]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip() or f"systemctl ended with status {done.returncode}"
        raise Failure(ExitCode.FAILURE, f"the gateway was not reloaded: {reason}")
    if options.json:
        print_json({"reloaded": True})


@gateway.command("sockets", cls=Command)
@_config_option
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Write the units to a folder.")
@click.pass_context
def sockets(ctx: click.Context, config: Path | None, output: Path | None) -> None:
    """Print socket units of systemd for the listeners in the configuration.

    With them, systemd keeps the addresses while the gateway is restarted: clients wait meanwhile instead of being
    refused. The configuration of the gateway stays as it is. Nothing is started or enabled.
    """
    from gpumand.cli.gateway_sockets import UNIT_FOLDER, socket_units

    units, options = socket_units(_settings(config)), global_options(ctx)
    if options.json:
        return print_json(units)
    if not units:
        raise Failure(ExitCode.FAILURE, "no listener has an address. Set gateway.listeners.NAME.listen first")
    if output is None:
        print("\n".join(f"# {UNIT_FOLDER}/{name}\n{text}" for name, text in units.items()), end="")
        return None
    for name, text in units.items():
        _write(output / name, text)
    if not options.quiet:
        print(f"Written to {output}: {', '.join(units)}. Pass the addresses to systemd with:", file=sys.stderr)
        print("  systemctl daemon-reload", f"  systemctl stop {UNIT}", sep="\n", file=sys.stderr)
        print(f"  systemctl enable --now {' '.join(units)}", f"  systemctl start {UNIT}", sep="\n", file=sys.stderr)
    return None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"cannot write {path}: {error.strerror}") from None


def _api(ctx: click.Context, address: str) -> GatewayApi:
    from gpumand.cli.gateway_api import gateway_of

    return gateway_of(global_options(ctx), address)


def _settings(config: Path | None) -> GatewaySettings:
    """The configuration of the gateway; its errors are printed. Raises click's Exit."""
    from gpumand.cli.render.format import clean
    from gpumand.config import ConfigProblems
    from gpumand.gateway.config import load

    try:
        return load(config)
    except ConfigProblems as error:
        for problem in error.problems:
            print(clean(str(problem)), file=sys.stderr)
        raise click.exceptions.Exit(ExitCode.FAILURE) from None
