"""``gpumanctl fleet invite``: a certificate and a user in etcd for one more host, or new ones for a host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet_setup.bundle import Bundle
from gpumand.cli.fleet_setup.files import SECRET, NewFile, read_bytes, write_again
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
    _remember(guest, folders)
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
    if (known := _known(folders).get(guest.host)) is not None and known.addresses:
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
    known = {name: one.machine_id for name, one in _known(folders).items()} | {settings.host: own_machine_id()}
    for name, machine_id in known.items():
        if machine_id == guest.machine_id and name != guest.host:
            what = f"{guest.host} has the same machine id as {name}, so it is probably a copy of that host"
            raise Failure(ExitCode.FAILURE, f"{what}. Give it a machine id of its own, see machine-id(5)")
    if settings.host == guest.host and guest.machine_id != known[settings.host]:
        raise Failure(ExitCode.FAILURE, f"{guest.host} is the name of this host. Choose another name")


@dataclass(frozen=True, slots=True)
class _Invited:
    """A host that was invited.

    Attributes:
        machine_id: its machine id.
        addresses: the addresses of its last certificate.
    """

    machine_id: str
    addresses: tuple[str, ...] = ()


def _known(folders: Folders) -> dict[str, _Invited]:
    """The hosts that were invited, by name."""
    if not folders.invited.exists():
        return {}
    try:
        document: Any = json.loads(read_bytes(folders.invited))
    except ValueError:
        raise Failure(ExitCode.FAILURE, f"{folders.invited} is no JSON. Restore it, or move it away") from None
    return {str(name): _invited(one) for name, one in document.items()} if isinstance(document, dict) else {}


def _invited(entry: Any) -> _Invited:
    if not isinstance(entry, dict):  # the form before addresses were kept
        return _Invited(str(entry))
    addresses = entry.get("addresses")
    kept = tuple(str(one) for one in addresses) if isinstance(addresses, list) else ()
    return _Invited(str(entry.get("machine_id", "")), kept)


def _remember(guest: Guest, folders: Folders) -> None:
    known = _known(folders) | {guest.host: _Invited(guest.machine_id, guest.addresses)}
    write_again(NewFile(folders.invited, (json.dumps(_document(known), indent=1) + "\n").encode(), SECRET))


def _document(known: Mapping[str, _Invited]) -> dict[str, Any]:
    return {name: {"machine_id": one.machine_id, "addresses": one.addresses} for name, one in known.items()}
