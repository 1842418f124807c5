"""``gpumanctl fleet init``: the authority, the first host's certificate, and its user in etcd. It can be repeated."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gpumand.bus.machine_id import read_machine_id
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.fleet_setup.files import FOR_GROUP, PUBLIC, SECRET, NewFile, give_to_group, read_bytes, read_secret
from gpumand.cli.fleet_setup.folders import Folders
from gpumand.cli.fleet_setup.toml_text import HostPlan, etcd_settings, fleet_toml
from gpumand.cli.packages import library_advice
from gpumand.config.problems import ConfigProblems
from gpumand.fleet.certificates import KeyPair, create_ca, create_host, create_member, is_available
from gpumand.fleet.config import load
from gpumand.fleet.discovery import discover
from gpumand.fleet.etcd_roles import EtcdAbsent, EtcdAdmin, EtcdFailure, HostAccess
from gpumand.fleet.settings import FleetConfig, TlsFiles
from gpumand.fleet.store import StoreUnavailable
from gpumand.fleet.tls import client_context

AGENT_PORT = 8447
ETCD_PORT = 2379
ETCD_GROUP = "etcd"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Founding:
    """What the user wants.

    Attributes:
        fleet, host: names.
        addresses: host names and IP addresses of this host, for other hosts.
        has_member: etcd runs on this host.
        endpoints: URLs of etcd elsewhere.
        peers: URLs of the agents of other hosts, by name.
        gateway_url: URL of this host's gateway for other hosts.
        domain: DNS domain whose SRV records list the members of etcd, in place of ``endpoints``; "" = none.
    """

    fleet: str
    host: str
    addresses: tuple[str, ...]
    has_member: bool = False
    endpoints: tuple[str, ...] = ()
    peers: Mapping[str, str] = field(default_factory=dict)
    gateway_url: str = ""
    domain: str = ""

    @property
    def plan(self) -> HostPlan:
        """The configuration of the first host."""
        address = bracketed(self.addresses[0])
        own = (f"https://{address}:{ETCD_PORT}",) if self.has_member and not self.domain else ()
        endpoints = (*own, *(one for one in self.endpoints if one not in own))
        url = f"https://{address}:{AGENT_PORT}"
        return HostPlan(self.fleet, self.host, url, self.gateway_url, endpoints, dict(self.peers), self.domain)


def bracketed(address: str) -> str:
    """An address as it is written in URLs."""
    return f"[{address}]" if ":" in address else address


def url_host(url: str) -> str:
    """Name or IP address in the URL of an agent."""
    return url.partition("://")[2].rpartition(":")[0].strip("[]")


def require_cryptography() -> None:
    """Raise Failure if the library that creates certificates is missing."""
    if not is_available():
        advice = f"Install it: {library_advice('cryptography>=38', debian='python3-cryptography')}"
        raise Failure(ExitCode.FAILURE, f"the Python library cryptography is missing. {advice}")


def new_files(wanted: Founding, folders: Folders) -> list[NewFile]:
    """The files that are missing. Raises Failure if a certificate exists without its key."""
    files: list[NewFile] = []
    authority = existing_pair(TlsFiles(folders.ca_certificate, folders.ca_certificate, folders.ca_key))
    if authority is None:
        authority = create_ca(wanted.fleet)
        files += _pair_files(folders.ca_certificate, folders.ca_key, authority, SECRET)
    if existing_pair(folders.host) is None:
        pair = create_host(authority, wanted.fleet, _names(wanted))
        files += host_files(folders, authority.certificate, pair)
    if wanted.has_member and existing_pair(folders.member) is None:
        pair = create_member(authority, wanted.fleet, (*_names(wanted), *LOOPBACK))
        files += member_files(folders, authority.certificate, pair)
        settings = etcd_settings(wanted.fleet, wanted.host, bracketed(wanted.addresses[0]), folders)
        files.append(NewFile(folders.member_settings, settings.encode()))
    if wanted.plan.endpoints or wanted.domain:
        files += [password_file(folders.root_password), password_file(folders.password)]
    files.append(NewFile(folders.config, fleet_toml(wanted.plan, folders).encode()))
    return [one for one in files if not one.path.exists()]


def _names(wanted: Founding) -> tuple[str, ...]:
    return tuple(dict.fromkeys((wanted.host, *wanted.addresses)))


def existing_pair(files: TlsFiles) -> KeyPair | None:
    """A certificate and key that exist; None if both are missing. Raises Failure if only one of them is."""
    there = [one for one in (files.certificate, files.key) if one.exists()]
    if not there:
        return None
    if len(there) == 1:
        missing = files.key if there[0] == files.certificate else files.certificate
        raise Failure(ExitCode.FAILURE, f"{there[0]} exists without {missing}. Move it away, or restore the other file")
    return KeyPair(read_bytes(files.certificate), read_bytes(files.key))


def host_files(folders: Folders, ca: bytes, pair: KeyPair) -> list[NewFile]:
    """The certificate files of a host."""
    return [NewFile(folders.host.ca, ca), *_pair_files(folders.host.certificate, folders.host.key, pair, SECRET)]


def member_files(folders: Folders, ca: bytes, pair: KeyPair) -> list[NewFile]:
    """The certificate files of a member of etcd, which its group may read."""
    files = folders.member
    return [
        NewFile(files.ca, ca, PUBLIC, ETCD_GROUP),
        NewFile(files.certificate, pair.certificate, PUBLIC, ETCD_GROUP),
        NewFile(files.key, pair.key, FOR_GROUP, ETCD_GROUP),
    ]


def give_member_files(folders: Folders) -> str:
    """Give the files of a member of etcd to the group of etcd, which its package may have created after them.

    Returns:
        Advice if there is no such group yet, else "".
    """
    files = folders.member
    paths = [one for one in (files.key.parent, files.ca, files.certificate, files.key) if one.exists()]
    if not paths or give_to_group(paths, ETCD_GROUP):
        return ""
    what = f"There is no group {ETCD_GROUP} yet, so etcd cannot read {files.key}"
    return f"{what}. Install etcd (apt install etcd-server), then run again: gpumanctl fleet init"


def _pair_files(certificate: Path, key: Path, pair: KeyPair, mode: int) -> list[NewFile]:
    return [NewFile(certificate, pair.certificate), NewFile(key, pair.key, mode)]


def new_password() -> str:
    """A random password."""
    return secrets.token_urlsafe(32)


def password_file(path: Path, password: str = "") -> NewFile:
    """A file with a password, a random one by default."""
    return NewFile(path, f"{password or new_password()}\n".encode("ascii"), SECRET)


def configuration(folders: Folders) -> FleetConfig:
    """The configuration of this host. Raises Failure."""
    try:
        return load(folders.config)
    except ConfigProblems as error:
        raise Failure(ExitCode.FAILURE, str(error)) from None


def own_machine_id() -> str:
    """The machine id of this host. Raises Failure."""
    found = read_machine_id()
    if not found:
        raise Failure(ExitCode.FAILURE, "this host has no machine id. Create it: systemd-machine-id-setup")
    return found


async def prepare_etcd(folders: Folders, *, may_require_login: bool = False) -> bool:
    """Create users and roles in etcd, for this host; False if etcd does not run yet. Raises Failure.

    Args:
        folders: where the files are.
        may_require_login: require a login in etcd also where other programs use it without one.
    """
    settings = configuration(folders)
    if settings.etcd is None:
        return True
    access = HostAccess(settings.etcd.user, read_secret(folders.password), settings.fleet, own_machine_id())
    try:
        await give_access(folders, settings, access, may_require_login=may_require_login)
    except EtcdAbsent:
        return False
    return True


async def give_access(
    folders: Folders, settings: FleetConfig, access: HostAccess, *, may_require_login: bool = False
) -> None:
    """Let a host use etcd. Raises Failure, and EtcdAbsent if no member answers."""
    async with etcd_admin(folders, settings) as admin:
        await admin.prepare(may_require_login=may_require_login)
        await admin.give_access(access)


@asynccontextmanager
async def etcd_admin(folders: Folders, settings: FleetConfig) -> AsyncIterator[EtcdAdmin]:
    """etcd as its user root. Raises Failure, also for what fails inside, and EtcdAbsent if no member answers."""
    assert settings.etcd is not None
    try:
        context = client_context(settings.tls) if settings.tls else None
        root = read_secret(folders.root_password)
        endpoints = settings.etcd.endpoints or await discover(settings.etcd.domain)
        async with EtcdAdmin(endpoints, context, root) as admin:
            yield admin
    except EtcdAbsent:
        raise
    except (EtcdFailure, StoreUnavailable) as error:
        raise Failure(ExitCode.FAILURE, str(error)) from None
    except (OSError, ssl.SSLError) as error:
        raise Failure(ExitCode.FAILURE, f"the certificate of this host cannot be used: {error}") from None
