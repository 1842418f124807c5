"""Reads /etc/gpumand/fleet.toml, the configuration of the fleet; every error has its file, line and key."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from gpumand.config import validators
from gpumand.config.files import read
from gpumand.config.problems import Document, Place, ProblemList, quoted
from gpumand.config.quantities import Seconds
from gpumand.config.table_schema import key, read_keys, type_name, with_defaults
from gpumand.config.value_types import Boolean, Integer, InvalidValue, ListOf, Text
from gpumand.domain.name_suggestions import nearest
from gpumand.fleet.access_config import ANY_HOST, AllowTable, host_name, rights_of

DEFAULT_FILE = Path("/etc/gpumand/fleet.toml")
DEFAULT_FOLDER = Path("/etc/gpumand/fleet")
"""Certificates, keys and the password of this host. systemd passes them to the service as credentials."""

CREDENTIAL_PREFIX = "fleet_"
"""Prefix of the names of these credentials: ``LoadCredential=fleet:`` of a folder adds it to the names of files."""

DEFAULT_SOCKET = "/run/gpumand-fleet/fleet.sock"
DEFAULT_PORT = 8447
MAX_PEERS = 32


def agent_url(text: str) -> str:
    """Check the URL of an agent or of an etcd member: scheme, host and port, without a path."""
    base = validators.url(text)
    parts = urlsplit(base)
    if parts.path or not parts.hostname:
        raise InvalidValue(f"{quoted(text)} is not an address: write scheme, host and port, such as https://gpu1:8447")
    return base.lower()


def is_plain(url: str) -> bool:
    """Whether connections to a URL are neither encrypted nor limited to this host."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def short_host_name() -> str:
    """The name of this host, without its domain."""
    return socket.gethostname().partition(".")[0].lower()


@attrs.frozen(kw_only=True)
class EtcdSettings:
    """The store of the fleet; the fields are the keys of ``EtcdTable``."""

    endpoints: tuple[str, ...] = ()
    user: str = ""
    password_file: str = ""

    def password(self) -> str:
        """Read the password. This function blocks. Raises OSError."""
        return credential(self.password_file).read_text(encoding="ascii").strip()


@attrs.frozen(kw_only=True)
class FleetSettings:
    """The configuration of this host's agent; the fields are the keys of ``FleetTable``.

    Attributes:
        host: name of this host in the fleet.
        peers: URL of the agent of each other host, by its name.
        allow: rights of callers, by the name of their host.
    """

    name: str = "default"
    host: str = attrs.field(factory=short_host_name)
    url: str = ""
    listen: tuple[str, ...] = ()
    gateway_url: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    ttl_sec: float = 10.0
    replicas_at: int = 0
    allow_plaintext: bool = False
    etcd: EtcdSettings = EtcdSettings()
    peers: dict[str, str] = attrs.field(factory=dict)
    allow: dict[str, frozenset[str]] = attrs.field(factory=dict)

    def may(self, caller: str, right: str) -> bool:
        """Whether a host may use a right here; a host with an entry of its own has only the rights of that entry."""
        return right in self.allow.get(caller, self.allow.get(ANY_HOST, frozenset()))

    @property
    def has_tls(self) -> bool:
        """Whether the agent has a certificate."""
        return bool(self.ca and self.certificate and self.key)


_DEFAULTS = FleetSettings(host="")
_FILE = Text("absolute path", validators.absolute_path)


@attrs.frozen
class FleetTable:
    """``[fleet]``: this host, its addresses and its certificate."""

    name: str = key(
        Text("name of a fleet", host_name),
        "Name of the fleet. Several fleets can use the same etcd.",
        default=_DEFAULTS.name,
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
        "send no requests for models to this host.",
        default=_DEFAULTS.gateway_url,
    )
    ca: str = key(_FILE, "File with the certificate of the fleet's own certificate authority (CA).", default="")
    certificate: str = key(
        _FILE, "File with the certificate of this host, without a common name (CN).", default=_DEFAULTS.certificate
    )
    key_: str = key(_FILE, "File with the private key of this certificate.", default=_DEFAULTS.key)
    ttl_sec: float = key(
        Seconds(5, 120),
        "Time after which a host that does not report is lost for all others. It reports every third of this time.",
        default=_DEFAULTS.ttl_sec,
        unit="s",
    )
    replicas_at: int = key(
        Integer(0, 1024),
        "Length of a consumer's queue at which it is loaded on one more host. 0 never loads it twice.",
        default=_DEFAULTS.replicas_at,
    )
    allow_plaintext: bool = key(
        Boolean(),
        "Permission to use http:// with other hosts: connections without encryption, in which every host of the "
        "network can act as any other. For tests.",
        default=_DEFAULTS.allow_plaintext,
    )


@attrs.frozen
class EtcdTable:
    """``[fleet.etcd]``: the store. Without it, the hosts of ``[fleet.peers]`` are asked directly."""

    endpoints: tuple[str, ...] = key(
        ListOf(Text("URL", agent_url), min_length=1, max_length=16, single=True),
        "URL of each member of etcd, such as https://gpu1:2379.",
    )
    user: str = key(
        Text("name of a user", host_name), "User of this host in etcd. By default the name of the host.", default=""
    )
    password_file: str = key(_FILE, "File with the password of this user, in one line.", default="")


@attrs.frozen
class PeersTable:
    """``[fleet.peers]``: one entry for each other host, as in ``gpu2 = "https://gpu2:8447"``.

    They are asked directly where there is no etcd, or while etcd gives no answer.
    """

    url: str = key(Text("URL", agent_url), "URL of the agent of the host that the name of the entry stands for.")


TABLES: dict[str, type[attrs.AttrsInstance]] = {
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


def load(path: Path | None = None) -> FleetSettings:
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


def _settings(document: Document, problems: ProblemList) -> FleetSettings | None:
    place = Place(document)
    for name in document.table.keys() - {"fleet"}:
        problems.add(place.at(name), "unknown table", nearest(name, ("fleet",)))
    raw = document.table.get("fleet", {})
    if not isinstance(raw, dict):
        problems.add(place.at("fleet"), f"must be a table, not {type_name(raw)}")
        return None
    place, raw = place.at("fleet"), dict(raw)
    etcd, peers, allow = (raw.pop(name, None) for name in ("etcd", "peers", "allow"))
    given = read_keys(FleetTable, raw, place, problems)
    if "url" not in raw:
        problems.add(place.at("url"), f"is missing: write the address of this host, such as {_example_url()}")
    values: dict[str, Any] = with_defaults(FleetTable, given)
    values["host"] = values["host"] or short_host_name()
    values["etcd"] = _etcd(etcd, values["host"], place.at("etcd"), problems)
    values["peers"] = _peers(peers, values["host"], place.at("peers"), problems)
    values["allow"] = rights_of(allow, place.at("allow"), problems)
    _check_store(etcd, peers, place, problems)
    _check_tls(values, place, problems)
    return None if problems.entries else FleetSettings(**_with_listen(values))


def _example_url() -> str:
    return f"https://{short_host_name()}:{DEFAULT_PORT}"


def _with_listen(values: dict[str, Any]) -> dict[str, Any]:
    if values["listen"]:
        return values
    parts = urlsplit(values["url"])
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return values | {"listen": (f"0.0.0.0:{port}", f"[::]:{port}")}


def _etcd(raw: object, host: Any, place: Place, problems: ProblemList) -> EtcdSettings:
    if raw is None:
        return EtcdSettings()
    before = len(problems.entries)
    given = read_keys(EtcdTable, raw, place, problems)
    if isinstance(raw, dict) and "endpoints" not in raw:
        problems.add(place.at("endpoints"), "is missing: write the URLs of the members of etcd, or remove this table")
    if given.get("user") and not given.get("password_file"):
        problems.add(place.at("password_file"), "is missing: name the file with the password of this user")
    if len(problems.entries) > before:
        return EtcdSettings()
    values = with_defaults(EtcdTable, given)
    return EtcdSettings(**values | {"user": values["user"] or (host if values["password_file"] else "")})


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


def _check_store(etcd: object, peers: object, place: Place, problems: ProblemList) -> None:
    if etcd is None and not peers:
        problems.add(place, "names no other host: add [fleet.etcd] with endpoints, or [fleet.peers]")


def _check_tls(values: dict[str, Any], place: Place, problems: ProblemList) -> None:
    """Refuse connections without encryption, and URLs with encryption for which the files are missing."""
    urls: list[tuple[tuple[str, ...], Any]] = [(("url",), values["url"])]
    urls += [(("etcd", "endpoints"), one) for one in values["etcd"].endpoints]
    urls += [(("peers", name), one) for name, one in values["peers"].items()]
    known = [(path, url) for path, url in urls if isinstance(url, str)]
    for path, url in known if values["allow_plaintext"] is False else ():
        if is_plain(url):
            problems.add(place.at(*path), f"{quoted(url)} is not encrypted: use https://")
    if any(url.startswith("https:") for _, url in known):
        for name in ("ca", "certificate", "key"):
            if values[name] == "":
                problems.add(place.at(name), "is missing: https:// needs it. gpumanctl fleet init or join writes it")


def unreadable_files(settings: FleetSettings) -> list[str]:
    """Problems of the files that the settings name, one line each; "" stands for no file. This function blocks."""
    files = (settings.ca, settings.certificate, settings.key, settings.etcd.password_file)
    return [line for one in files if one and (line := _unreadable(one))]


def _unreadable(path: str) -> str:
    try:
        with credential(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return ""
