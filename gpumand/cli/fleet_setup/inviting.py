"""``gpumanctl fleet invite``: a certificate and a user in etcd for one more host, or new ones for a host."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet_setup.bundle import Bundle
from gpumand.cli.fleet_setup.folders import Folders
from gpumand.cli.fleet_setup.founding import (
    AGENT_PORT,
    LOOPBACK,
    bracketed,
    configuration,
    existing_pair,
    give_access,
    new_password,
    own_machine_id,
    url_host,
)
from gpumand.cli.fleet_setup.invited import InvitedHost, invited_hosts, write_invited
from gpumand.cli.fleet_setup.toml_text import HostPlan
from gpumand.fleet.certificates import BadCertificate, KeyPair, create_host, create_member, read_host
from gpumand.fleet.etcd_roles import EtcdAbsent, HostAccess
from gpumand.fleet.settings import FleetConfig, TlsFiles


@dataclass(frozen=True, slots=True)
class Guest:
    """The host to invite.

    Attributes:
        host: its name.
        machine_id: its machine id.
        addresses: host names and IP addresses at which other hosts reach it; () = as in its last certificate.
        has_member: it gets certificates for a member of etcd too.
    """

    host: str
    machine_id: str
    addresses: tuple[str, ...]
    has_member: bool = False


async def invite(guest: Guest, folders: Folders) -> Bundle:
    """Create the invitation, and the user in etcd. Raises Failure."""
    settings, authority = configuration(folders), _authority(folders)
    _check_machine_id(guest, folders, settings)
    guest = replace(guest, addresses=guest.addresses or _former_addresses(guest, folders, settings))
    names = tuple(dict.fromkeys((guest.host, *guest.addresses)))
    try:
        pair = create_host(authority, settings.fleet, names)
        member = create_member(authority, settings.fleet, (*names, *LOOPBACK)) if guest.has_member else None
    except BadCertificate as error:
        raise Failure(ExitCode.FAILURE, f"the certificate authority cannot be used: {error}") from None
    password = await _access(guest, folders, settings)
    write_invited(invited_hosts(folders) | {guest.host: InvitedHost(guest.machine_id, guest.addresses)}, folders)
    return Bundle(_plan(guest, settings), guest.machine_id, authority.certificate, pair, password, member)


def _authority(folders: Folders) -> KeyPair:
    pair = existing_pair(TlsFiles(folders.ca_certificate, folders.ca_certificate, folders.ca_key))
    if pair is None:
        what = f"this host has no certificate authority ({folders.ca_key} does not exist)"
        raise Failure(ExitCode.FAILURE, f"{what}. Run it on the host that created the fleet")
    return pair


def _plan(guest: Guest, settings: FleetConfig) -> HostPlan:
    url = f"https://{bracketed(guest.addresses[0])}:{AGENT_PORT}"
    endpoints = settings.etcd.endpoints if settings.etcd else ()
    # With etcd and without peers, the hosts find each other in etcd.
    peers = {settings.host: settings.url, **settings.peers} if settings.peers else {}
    others = {name: url for name, url in peers.items() if name != guest.host}
    domain = settings.etcd.domain if settings.etcd else ""
    return HostPlan(settings.fleet, guest.host, url, endpoints=endpoints, peers=others, domain=domain)


async def _access(guest: Guest, folders: Folders, settings: FleetConfig) -> str:
    if settings.etcd is None:
        return ""
    password = new_password()
    try:
        await give_access(folders, settings, HostAccess(guest.host, password, settings.fleet, guest.machine_id))
    except EtcdAbsent as error:
        raise Failure(ExitCode.FAILURE, f"{error}. Start etcd, then run gpumanctl fleet init again") from None
    return password


def _former_addresses(guest: Guest, folders: Folders, settings: FleetConfig) -> tuple[str, ...]:
    """The addresses of a host that has a certificate already; its name for a new host.

    Without them, a certificate that is only renewed would lose the addresses at which the others reach the host.
    """
    if (known := invited_hosts(folders).get(guest.host)) is not None and known.addresses:
        return known.addresses
    if guest.host == settings.host:
        return _own_addresses(settings)
    url = settings.peers.get(guest.host, "")
    return (url_host(url),) if url else (guest.host,)


def _own_addresses(settings: FleetConfig) -> tuple[str, ...]:
    """The addresses of this host: that of its URL first, then those of its certificate."""
    names: tuple[str, ...] = ()
    if settings.tls is not None:
        with suppress(OSError, BadCertificate):
            names = read_host(settings.tls.certificate.read_bytes()).names
    return tuple(dict.fromkeys((url_host(settings.url), *(one for one in names if one != settings.host))))


def _check_machine_id(guest: Guest, folders: Folders, settings: FleetConfig) -> None:
    """Refuse a second host with the same machine id, as copies of a virtual machine have it."""
    known = {name: one.machine_id for name, one in invited_hosts(folders).items()} | {settings.host: own_machine_id()}
    for name, machine_id in known.items():
        if machine_id == guest.machine_id and name != guest.host:
            what = f"{guest.host} has the same machine id as {name}, so it is probably a copy of that host"
            raise Failure(ExitCode.FAILURE, f"{what}. Give it a machine id of its own, see machine-id(5)")
    if settings.host == guest.host and guest.machine_id != known[settings.host]:
        raise Failure(ExitCode.FAILURE, f"{guest.host} is the name of this host. Choose another name")
