"""Reads /etc/gpumand/fleet.toml, the configuration of the fleet; every error has its file, line and key."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpumand.config import validators
from gpumand.config.files import read
from gpumand.config.problems import Document, Place, ProblemList, quoted
from gpumand.config.quantities import Seconds
from gpumand.config.shared_keys import default_of
from gpumand.config.table_schema import key, keys_table, read_keys, type_name, with_defaults
from gpumand.config.value_types import Boolean, Integer, InvalidValue, ListOf, Text
from gpumand.domain.name_suggestions import nearest
from gpumand.fleet.access_config import AllowTable, host_name, rights_of
from gpumand.fleet.settings import EtcdConfig, FleetConfig, TlsFiles

DEFAULT_FILE = Path("/etc/gpumand/fleet.toml")
DEFAULT_FOLDER = Path("/etc/gpumand/fleet")
"""Certificates, keys and the password of this host. systemd passes them to the service as credentials."""

CREDENTIAL_PREFIX = "fleet_"
"""Prefix of the names of these credentials: ``LoadCredential=fleet:`` of a folder adds it to the names of files."""

DEFAULT_PORT = 8447
MAX_PEERS = 32
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
NESTED = ("etcd", "peers", "allow")
TLS_KEYS = ("ca", "certificate", "key")


def agent_url(text: str) -> str:
    """Check the URL of an agent or of an etcd member: scheme, host and port, without a path."""
    base = validators.url(text)
    parts = urlsplit(base)
    if parts.path or not parts.hostname:
        raise InvalidValue(f"{quoted(text)} is not an address: write scheme, host and port, such as https://gpu1:8447")
    return base.lower()


def dns_domain(text: str) -> str:
    """Check the name of a DNS domain."""
    name = text.rstrip(".").lower()
    if len(name) > 200 or not _DOMAIN.fullmatch(name):
        raise InvalidValue(f"{quoted(text)} is not the name of a DNS domain, such as lab.example.org")
    return name


def is_plain(url: str) -> bool:
    """Whether connections to a URL are neither encrypted nor limited to this host."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def short_host_name() -> str:
    """The name of this host, without its domain."""
    return socket.gethostname().partition(".")[0].lower()


_FILE = Text("absolute path", validators.absolute_path)


@keys_table
class FleetTable:
    """``[fleet]``: this host, its addresses and its certificate."""

    name: str = key(
        Text("name of a fleet", host_name),
        "Name of the fleet. Several fleets can use the same etcd.",
        default=default_of(FleetConfig, "fleet"),
    )
    host: str = key(
        Text("name of a host", host_name),
        "Name of this host in the fleet. Its certificate has it as the first DNS name. By default the host name "
        "without its domain.",
        default="",
    )
    url: str = key(
        Text("URL", agent_url), "URL at which other hosts reach the agent of this host, such as https://gpu1:8447."
    )
    listen: tuple[str, ...] = key(
        ListOf(Text("IP address and port", validators.listen_address), max_length=8, single=True),
        "Listen address of the agent: an IP address and port, or a list of them. By default all addresses, with the "
        "port of url.",
        default=(),
    )
    gateway_url: str = key(
        Text("URL", agent_url),
        "URL at which other hosts reach the gateway of this host, such as http://gpu1:8770. Without it, other hosts "
        "send no requests for models to this host. gpumand-gateway.service drops their packets until IPAddressAllow= "
        "in a drop-in permits their addresses.",
        default=default_of(FleetConfig, "gateway_url"),
    )
    ca: str = key(_FILE, "File with the certificate of the fleet's own certificate authority (CA).", default="")
    certificate: str = key(_FILE, "File with the certificate of this host, without a common name (CN).", default="")
    key_: str = key(_FILE, "File with the private key of this certificate.", default="")
    ttl_sec: float = key(
        Seconds(5, 120),
        "Time after which a host that does not report is lost for all others. It reports every third of this time.",
        default=default_of(FleetConfig, "ttl_sec"),
        unit="s",
    )
    replicas_at: int = key(
        Integer(0, 1024),
        "Length of a consumer's queue at which it is loaded on one more host. 0 never loads it twice.",
        default=default_of(FleetConfig, "replicas_at"),
    )
    allow_plaintext: bool = key(
        Boolean(),
        "Permission to use http:// with other hosts: connections without encryption, in which every host of the "
        "network can act as any other. For tests.",
        default=False,
    )


@keys_table
class EtcdTable:
    """``[fleet.etcd]``: the store. Without it, the hosts of ``[fleet.peers]`` are asked directly."""

    endpoints: tuple[str, ...] = key(
        ListOf(Text("URL", agent_url), min_length=1, max_length=16, single=True),
        "URL of each member of etcd, such as https://gpu1:2379.",
        default=(),
    )
    domain: str = key(
        Text("DNS domain", dns_domain),
        "DNS domain that has an SRV record _etcd-client-ssl._tcp for each member of etcd, in place of endpoints. "
        "systemd-resolved looks the records up.",
        default="",
    )
    user: str = key(
        Text("name of a user", host_name), "User of this host in etcd. By default the name of the host.", default=""
    )
    password_file: str = key(_FILE, "File with the password of this user, in one line.", default="")


@keys_table
class PeersTable:
    """``[fleet.peers]``: one entry for each other host, as in ``gpu2 = "https://gpu2:8447"``.

    They are asked directly where there is no etcd, or while etcd gives no answer.
    """

    HOST: str = key(Text("URL", agent_url), "URL of the agent of the host that the name of the entry stands for.")


TABLES: dict[str, type[Any]] = {
    "fleet": FleetTable,
    "fleet.etcd": EtcdTable,
    "fleet.peers": PeersTable,
    "fleet.allow": AllowTable,
}
"""All tables of the configuration, in the order of the reference."""


def credential(path: str) -> Path:
    """The file that the process can read: the copy that systemd passes to the service, if there is one."""
    passed = os.environ.get("CREDENTIALS_DIRECTORY", "")
    copy = Path(passed) / f"{CREDENTIAL_PREFIX}{Path(path).name}"
    return copy if passed and Path(path).parent == DEFAULT_FOLDER and copy.exists() else Path(path)


def load(path: Path | None = None) -> FleetConfig:
    """Read the configuration. This function blocks while it reads the file.

    Args:
        path: the file; None reads ``DEFAULT_FILE``.

    Raises:
        ConfigProblems: the configuration cannot be used; the exception lists all problems.
    """
    problems = ProblemList()
    file = path or DEFAULT_FILE
    document = read(file, problems)
    settings = _settings(document, problems) if document else None
    problems.raise_any([str(file)])
    assert settings is not None
    return settings


def _settings(document: Document, problems: ProblemList) -> FleetConfig | None:
    place = Place(document)
    for name in document.table.keys() - {"fleet"}:
        problems.add(place.at(name), "unknown table", nearest(name, ("fleet",)))
    raw = document.table.get("fleet", {})
    if not isinstance(raw, dict):
        problems.add(place.at("fleet"), f"must be a table, not {type_name(raw)}")
        return None
    place, raw = place.at("fleet"), dict(raw)
    etcd, peers, allow = (raw.pop(name, None) for name in NESTED)
    keys = _keys(raw, place, problems)
    store = _etcd(etcd, keys["host"], place.at("etcd"), problems)
    others = _peers(peers, keys["host"], place.at("peers"), problems)
    rights = rights_of(allow, place.at("allow"), problems)
    if etcd is None and not peers:
        problems.add(place, "names no other host: add [fleet.etcd] with endpoints, or [fleet.peers]")
    _check_tls(keys, store.endpoints if store else (), others, place, problems)
    return None if problems.entries else _config(keys, store, others, rights)


def _config(
    keys: dict[str, Any], etcd: EtcdConfig | None, peers: dict[str, str], allow: dict[str, frozenset[str]]
) -> FleetConfig:
    files = [credential(keys[name]) for name in TLS_KEYS if keys[name]]
    return FleetConfig(
        fleet=keys["name"],
        host=keys["host"],
        url=keys["url"],
        listen=keys["listen"] or _all_addresses(keys["url"]),
        gateway_url=keys["gateway_url"],
        ttl_sec=keys["ttl_sec"],
        replicas_at=keys["replicas_at"],
        etcd=etcd,
        peers=peers,
        tls=TlsFiles(*files) if len(files) == len(TLS_KEYS) else None,
        allow=allow,
    )


def _keys(raw: dict[str, Any], place: Place, problems: ProblemList) -> dict[str, Any]:
    for name in [one for one in raw if isinstance(raw[one], dict) and nearest(one, NESTED)]:
        problems.add(place.at(name), "unknown table", nearest(name, NESTED))
        del raw[name]
    given = read_keys(FleetTable, raw, place, problems)
    if "url" not in raw:
        example = f"https://{short_host_name()}:{DEFAULT_PORT}"
        problems.add(place.at("url"), f"is missing: write the address of this host, such as {example}")
    values = with_defaults(FleetTable, given)
    return values | {"host": values["host"] or short_host_name()}


def _all_addresses(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return (f"0.0.0.0:{port}", f"[::]:{port}")


def _etcd(raw: object, host: Any, place: Place, problems: ProblemList) -> EtcdConfig | None:
    if raw is None:
        return None
    before = len(problems.entries)
    given = read_keys(EtcdTable, raw, place, problems)
    if isinstance(raw, dict) and not {"endpoints", "domain"} & raw.keys():
        problems.add(place.at("endpoints"), "is missing: write the URLs of the members of etcd, or remove this table")
    if isinstance(raw, dict) and {"endpoints", "domain"} <= raw.keys():
        problems.add(place.at("domain"), "is not used with endpoints: remove one of them")
    if given.get("user") and not given.get("password_file"):
        problems.add(place.at("password_file"), "is missing: name the file with the password of this user")
    if len(problems.entries) > before:
        return None
    values = with_defaults(EtcdTable, given)
    file, user = values["password_file"], values["user"]
    password = credential(file) if file else None
    return EtcdConfig(values["endpoints"], user or (host if file else ""), password, values["domain"])


def _peers(raw: object, host: Any, place: Place, problems: ProblemList) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, dict) or len(raw) > MAX_PEERS:
        what = f"one with {len(raw)}" if isinstance(raw, dict) else type_name(raw)
        problems.add(place, f"must be a table with at most {MAX_PEERS} entries, not {what}")
        return {}
    url = Text("URL", agent_url)
    for name in raw:
        Text("name of a host", host_name).read(name, place.at(name), problems)
        if name == host:
            problems.add(place.at(name), "is this host itself: list only the other hosts")
    return {name: url.read(value, place.at(name), problems) for name, value in raw.items()}


def _check_tls(
    keys: dict[str, Any], endpoints: tuple[str, ...], peers: dict[str, str], place: Place, problems: ProblemList
) -> None:
    """Refuse connections without encryption, and URLs with encryption for which the files are missing."""
    urls: list[tuple[tuple[str, ...], Any]] = [(("url",), keys["url"])]
    urls += [(("etcd", "endpoints"), one) for one in endpoints]
    urls += [(("peers", name), one) for name, one in peers.items()]
    known = [(path, url) for path, url in urls if isinstance(url, str)]
    for path, url in known if keys["allow_plaintext"] is False else ():
        if is_plain(url):
            problems.add(place.at(*path), f"{quoted(url)} is not encrypted: use https://")
    if any(url.startswith("https:") for _, url in known) or any(keys[one] for one in TLS_KEYS):
        for name in (one for one in TLS_KEYS if keys[one] == ""):
            problems.add(place.at(name), "is missing: TLS needs it. gpumanctl fleet init or join writes it")


def unreadable_files(settings: FleetConfig) -> list[str]:
    """Problems of the files that the configuration names, one line each. This function blocks."""
    tls, etcd = settings.tls, settings.etcd
    files = [tls.ca, tls.certificate, tls.key] if tls else []
    files += [etcd.password_file] if etcd and etcd.password_file else []
    return [line for one in files if (line := _unreadable(one))]


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return ""
