"""``gpumanctl gateway key``: creates, lists and removes the API keys of the gateway's clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, Group, global_options
from gpumand.cli.output import print_json

if TYPE_CHECKING:
    from gpumand.config.gateway_keys import GatewayKey

RELOAD = "systemctl reload gpumand-gateway"


def _file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--keys-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="File with the keys. Default: /etc/gpumand/gateway-keys.toml.",
    )(command)


@click.group("key", cls=Group, no_args_is_help=False)
def key() -> None:
    """Create, list and remove API keys of the gateway's clients.

    A client presents its key as a Bearer token, as x-api-key, or as the password of Basic authentication. The file has
    only the hashes of keys. Reload the gateway after a change: systemctl reload gpumand-gateway
    """


@key.command("add", cls=Command)
@click.argument("name")
@click.option(
    "--priority", type=click.IntRange(-100, 100), help="Priority of its requests. Default: that of the listener."
)
@click.option("--consumer", "consumers", multiple=True, metavar="NAME", help="Consumer that it may use. Default: all.")
@click.option("--interactive", is_flag=True, help="It may use the slots that are reserved for interactive keys.")
@click.option("--evict", is_flag=True, help="It may load, evict and pin consumers, and cancel requests of others.")
@_file_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    priority: int | None,
    consumers: tuple[str, ...],
    interactive: bool,
    evict: bool,
    keys_file: Path | None,
) -> None:
    """Create the API key NAME and print it. It is not printed again."""
    from gpumand.config.gateway_keys import add_key, hash_of, key_table, new_secret

    file, existing = _read(keys_file)
    _check_name(name, existing)
    secret = new_secret()
    table = key_table(name, hash_of(secret), priority, consumers, evict=evict, interactive=interactive)
    _write(file, lambda: add_key(file, table))
    options = global_options(ctx)
    if options.json:
        return print_json({"name": name, "key": secret})
    click.echo(f"The key is in effect after: {RELOAD}", err=True)
    return click.echo(secret)


@key.command("list", cls=Command)
@_file_option
@click.pass_context
def list_keys(ctx: click.Context, keys_file: Path | None) -> None:
    """List the names and the rights of all API keys."""
    options, (_, found) = global_options(ctx), _read(keys_file)
    if options.json:
        return print_json([_fields(one) for one in found])
    for one in found:
        click.echo(_line(one))
    return None


@key.command("remove", cls=Command)
@click.argument("name")
@_file_option
@click.pass_context
def remove(ctx: click.Context, name: str, keys_file: Path | None) -> None:
    """Remove the API key NAME. Requests in flight go on."""
    from gpumand.config.gateway_keys import remove_key

    file, existing = _read(keys_file)
    if name not in {one.name for one in existing}:
        raise Failure(ExitCode.NO_SUCH, f"There is no key {name} in {file}.")
    removed: list[bool] = []
    _write(file, lambda: removed.append(remove_key(file, name)))
    if not removed[0]:
        raise Failure(ExitCode.FAILURE, f"{file} does not have [keys.{name}] on a line of its own. Remove it there.")
    click.echo(f"The key {name} is refused after: {RELOAD}", err=True)


def _read(keys_file: Path | None) -> tuple[Path, tuple[GatewayKey, ...]]:
    from gpumand.config.gateway_keys import DEFAULT_KEYS_FILE, load_keys
    from gpumand.config.problems import ProblemList

    file, problems = keys_file or DEFAULT_KEYS_FILE, ProblemList()
    found = load_keys(file, problems, optional=True)
    problems.raise_any([str(file)])
    return file, found


def _check_name(name: str, existing: tuple[GatewayKey, ...]) -> None:
    from gpumand.config.gateway_keys import is_key_name

    if not is_key_name(name):
        raise click.UsageError(f"{name!r} is not a name: use letters, digits, dots, underscores and hyphens.")
    if name in {one.name for one in existing}:
        raise Failure(
            ExitCode.FAILURE, f"There is a key {name} already. Remove it: gpumanctl gateway key remove {name}"
        )


def _write(file: Path, work: Callable[[], None]) -> None:
    try:
        work()
    except OSError as error:
        text = f"{file} cannot be written: {error.strerror}. Run the command as root, or choose another --keys-file."
        raise Failure(ExitCode.FAILURE, text) from None


def _fields(one: GatewayKey) -> dict[str, Any]:
    consumers = None if one.consumers is None else sorted(one.consumers)
    rights = {"evict": one.evict, "interactive": one.interactive}
    return {"name": one.name, "priority": one.priority, "consumers": consumers, **rights}


def _line(one: GatewayKey) -> str:
    consumers = "all consumers" if one.consumers is None else ", ".join(sorted(one.consumers)) or "no consumer"
    rights = [word for word, has in (("interactive", one.interactive), ("evict", one.evict)) if has]
    priority = "priority of the listener" if one.priority is None else f"priority {one.priority}"
    return "  ".join([one.name, priority, consumers, *rights])
