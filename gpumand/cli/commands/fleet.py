"""``gpumanctl fleet``: creates a fleet of several hosts, invites, joins and removes hosts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, Group, global_options
from gpumand.cli.output import print_json

if TYPE_CHECKING:
    from gpumand.cli.fleet_setup.files import NewFile
    from gpumand.cli.fleet_setup.folders import Folders
    from gpumand.cli.fleet_setup.founding import Founding

START = "systemctl enable --now gpumand-fleet"


def _folder_option(command: Any) -> Any:
    return click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
        default=Path("/etc/gpumand"),
        help="Folder of the configuration. Default: /etc/gpumand.",
    )(command)


def _address_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--address",
        "addresses",
        multiple=True,
        metavar="NAME|IP",
        help="Name or IP address at which other hosts reach the host. The first one is used in URLs, and all of them "
        f"are in the certificate. Default: {default}.",
    )


@click.group("fleet", cls=Group, no_args_is_help=False)
def fleet() -> None:
    """Create a fleet; invite, join and remove hosts.

    The hosts of a fleet are shown and used with gpumanctl --fleet, see gpumand-fleet(8).
    """


@fleet.command("init", cls=Command)
@click.option("--name", default="default", metavar="NAME", help="Name of the fleet. Default: default.")
@click.option("--host", default="", metavar="NAME", help="Name of this host in the fleet. Default: its host name.")
@_address_option("the name of the host")
@click.option("--etcd", "has_member", is_flag=True, help="Prepare a member of etcd on this host.")
@click.option("--endpoint", "endpoints", multiple=True, metavar="URL", help="URL of a member of etcd elsewhere.")
@click.option("--domain", default="", metavar="DOMAIN", help="DNS domain whose SRV records list the members of etcd.")
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME=URL", help="Another host, and the URL of its agent. Without etcd."
)
@click.option("--gateway-url", default="", metavar="URL", help="URL of this host's gateway for other hosts.")
@click.option(
    "--require-login",
    is_flag=True,
    help="Require a login in an etcd that other programs use without one. They lose their access.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written, and do nothing.")
@_folder_option
@click.pass_context
def init(ctx: click.Context, /, dry_run: bool, require_login: bool, folder: Path, **arguments: Any) -> None:
    """Create a fleet on its first host.

    Writes a certificate authority, the certificate of this host and fleet.toml, and creates its user in etcd. Existing
    files stay as they are: run the command again, without options, when etcd has been started.
    """
    from gpumand.cli.fleet_setup.files import write_new
    from gpumand.cli.fleet_setup.folders import Folders
    from gpumand.cli.fleet_setup.founding import give_member_files, new_files, prepare_etcd, require_cryptography

    options, folders = global_options(ctx), Folders(folder)
    require_cryptography()
    wanted = _founding(folders, arguments)
    files = new_files(wanted, folders)
    if dry_run:
        return _print_result(options, files, [], "would be written")
    write_new(files)
    group_note = give_member_files(folders)
    is_ready = asyncio.run(prepare_etcd(folders, may_require_login=require_login))
    notes = [group_note] if group_note else []
    return _print_result(options, files, [*notes, *_after_init(folders, is_ready)], "written")


def _founding(folders: Folders, arguments: dict[str, Any]) -> Founding:
    """What to create: from the options, or from the configuration that was written before. Raises UsageError."""
    from gpumand.cli.fleet_setup.founding import Founding, configuration, url_host
    from gpumand.fleet.config import short_host_name

    if folders.config.exists():
        found = configuration(folders)
        address = url_host(found.url)
        endpoints, domain = (found.etcd.endpoints, found.etcd.domain) if found.etcd else ((), "")
        member = folders.member.key.exists()
        return Founding(found.fleet, found.host, (address,), member, endpoints, found.peers, domain=domain)
    host = arguments["host"] or short_host_name()
    addresses = arguments["addresses"] or (host,)
    peers = dict(_peer(one) for one in arguments["peers"])
    endpoints, domain = arguments["endpoints"], _domain(arguments)
    if not (arguments["has_member"] or endpoints or domain or peers):
        raise click.UsageError(
            "say where hosts meet: --etcd runs etcd on this host, --endpoint URL or --domain DOMAIN uses etcd "
            "elsewhere, and --peer NAME=URL asks another host directly"
        )
    _check_values(arguments["name"], host, addresses, endpoints, peers, arguments["gateway_url"])
    member, gateway_url = arguments["has_member"], arguments["gateway_url"]
    return Founding(arguments["name"], host, tuple(addresses), member, tuple(endpoints), peers, gateway_url, domain)


def _domain(arguments: dict[str, Any]) -> str:
    """The DNS domain of the members of etcd; "" = none. Raises UsageError."""
    from gpumand.config.value_types import InvalidValue
    from gpumand.fleet.config import dns_domain

    if arguments["domain"] and arguments["endpoints"]:
        raise click.UsageError("--domain finds the members of etcd, so use it without --endpoint")
    try:
        return dns_domain(arguments["domain"]) if arguments["domain"] else ""
    except InvalidValue as error:
        raise click.UsageError(str(error)) from None


def _peer(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals:
        raise click.UsageError(f"--peer {text}: write the name of the host and its URL, as in gpu2=https://gpu2:8447")
    return name, url


def _check_values(
    name: str, host: str, addresses: Any = (), endpoints: Any = (), peers: Any = None, gateway_url: str = ""
) -> None:
    from gpumand.config.value_types import InvalidValue
    from gpumand.fleet.access_config import host_name
    from gpumand.fleet.config import agent_url

    try:
        for one in (name, host, *(peers or {})):
            host_name(one)
        for one in (*endpoints, *(peers or {}).values(), *((gateway_url,) if gateway_url else ())):
            agent_url(one)
        for one in addresses:
            agent_url(f"https://[{one}]:1" if ":" in one else f"https://{one}:1")
    except InvalidValue as error:
        raise click.UsageError(str(error)) from None


def _after_init(folders: Folders, is_ready: bool) -> list[str]:
    if not is_ready:
        again = "then run again: gpumanctl fleet init"
        if folders.member_settings.exists():
            copy = f"cp {folders.member_settings} /etc/default/etcd && systemctl restart etcd"
            return [f"etcd does not answer yet. Install it (apt install etcd-server), start it: {copy}; {again}"]
        return [f"etcd does not answer. Start it, {again}"]
    return [f"Start the agent: {START}", f"Invite another host, on that host: {invitation_line()}"]


def invitation_line() -> str:
    """The command that invites a host and joins it, to run on that host."""
    from gpumand.fleet.config import short_host_name

    invite = "sudo gpumanctl fleet invite $(hostname -s) --machine-id $(cat /etc/machine-id)"
    return f'ssh {short_host_name()} "{invite}" | sudo gpumanctl fleet join -'


@fleet.command("invite", cls=Command)
@click.argument("host")
@click.option("--machine-id", required=True, metavar="ID", help="Content of /etc/machine-id of the host.")
@_address_option("those of its last certificate, or the name of a new host")
@click.option("--etcd", "has_member", is_flag=True, help="Add certificates for a member of etcd on the host.")
@_folder_option
@click.pass_context
def invite(
    ctx: click.Context, host: str, machine_id: str, addresses: tuple[str, ...], has_member: bool, folder: Path
) -> None:
    """Create a certificate for HOST, and print the invitation for gpumanctl fleet join.

    Run it on the host that created the fleet. The invitation contains a private key: pass it on over ssh, and do not
    keep it. A second invitation of a host renews its certificate, and changes its password in etcd. It keeps the
    addresses of the host, unless others are given.
    """
    from gpumand.cli.fleet_setup.folders import Folders
    from gpumand.cli.fleet_setup.founding import require_cryptography
    from gpumand.cli.fleet_setup.inviting import Guest
    from gpumand.cli.fleet_setup.inviting import invite as create
    from gpumand.fleet.keys import is_machine_id

    if not is_machine_id(machine_id):
        raise click.UsageError("--machine-id is the content of /etc/machine-id of that host: 32 hex digits")
    _check_values(host, host, addresses)
    if sys.stdout.isatty():
        message = "the invitation contains a private key. Pipe it to gpumanctl fleet join -, or into a file"
        raise Failure(ExitCode.USAGE, message)
    require_cryptography()
    bundle = asyncio.run(create(Guest(host, machine_id, addresses, has_member), Folders(folder)))
    click.echo(bundle.text(), nl=False)
    if not (bundle.plan.endpoints or bundle.plan.domain):
        note = f'Other hosts need this line below [fleet.peers] in fleet.toml: {host} = "{bundle.plan.url}"'
        click.echo(note, err=True)


@fleet.command("remove", cls=Command)
@click.argument("host")
@_folder_option
@click.pass_context
def remove(ctx: click.Context, host: str, folder: Path) -> None:
    """Remove HOST, which has left the fleet or was stolen: it cannot log in to etcd any more.

    Run it on the host that created the fleet. The output names what is left to do on the other hosts, since the
    certificate of HOST stays valid until it expires.
    """
    from gpumand.cli.fleet_setup.folders import Folders
    from gpumand.cli.fleet_setup.founding import require_cryptography
    from gpumand.cli.fleet_setup.removing import remove as end_access

    options = global_options(ctx)
    require_cryptography()
    notes = asyncio.run(end_access(host, Folders(folder)))
    if options.json:
        return print_json({"removed": host, "next": notes})
    click.echo(f"{host}: removed")
    for note in notes if not options.quiet else ():
        click.echo(note)
    return None


@fleet.command("join", cls=Command)
@click.argument("file", type=click.File("rb"))
@click.option("--replace", is_flag=True, help="Replace the certificate and the password; the old files are kept.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and do nothing.")
@_folder_option
@click.pass_context
def join(ctx: click.Context, file: Any, replace: bool, dry_run: bool, folder: Path) -> None:
    """Join the fleet with the invitation in FILE, or on standard input if FILE is -.

    Writes the certificate of this host and fleet.toml. An existing fleet.toml stays as it is.
    """
    from gpumand.cli.fleet_setup.bundle import MAX_BYTES, BadBundle, parse_bundle
    from gpumand.cli.fleet_setup.folders import Folders
    from gpumand.cli.fleet_setup.founding import require_cryptography
    from gpumand.cli.fleet_setup.joining import files_of
    from gpumand.cli.fleet_setup.joining import join as write

    options, folders = global_options(ctx), Folders(folder)
    require_cryptography()
    try:
        bundle = parse_bundle(file.read(MAX_BYTES + 1))
    except BadBundle as error:
        raise Failure(ExitCode.FAILURE, f"{file.name} is no invitation: {error}") from None
    files = files_of(bundle, folders)
    if dry_run:
        return _print_result(options, files, [], "would be written")
    written, backups = write(files, folders, replace=replace)
    start = "systemctl restart gpumand-fleet" if backups else START
    notes = [f"Kept as {one}" for one in backups] + [f"Start the agent: {start}"]
    return _print_result(options, [one for one in files if one.path in written], notes, "written")


def _print_result(options: GlobalOptions, files: list[NewFile], notes: list[str], what: str) -> None:
    if options.json:
        return print_json({what.replace(" ", "_"): [str(one.path) for one in files], "next": notes})
    for one in files:
        click.echo(f"{one.path}: {what}")
    for note in notes if not options.quiet else ():
        click.echo(note)
    return None
