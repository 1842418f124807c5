"""The configuration of access: which hosts, web sites and keys the gateway accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumand.config import validators
from gpumand.config.gateway_keys import DEFAULT_KEYS_FILE, GatewayKey, load_keys
from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.table_schema import INVALID, key, keys_table
from gpumand.config.value_types import Boolean, InvalidValue, ListOf, Text

SOCKET_PREFIX = "unix:"
NEEDS_KEYS = "requires API keys: create one with gpumanctl gateway key add NAME"


def listen_at(text: str) -> str:
    """Check an address to listen at: an IP address with a port, or ``unix:`` and an absolute path."""
    if text.startswith(SOCKET_PREFIX):
        path = validators.absolute_path(text.removeprefix(SOCKET_PREFIX))
        if len(path) > validators.MAX_SOCKET_PATH:
            raise InvalidValue(f"is longer than {validators.MAX_SOCKET_PATH} bytes, the maximum of Linux")
        return text
    return validators.listen_address(text)


def is_remote(address: str) -> bool:
    """Whether other hosts can reach an address that ``listen_at`` has accepted."""
    return not address.startswith(SOCKET_PREFIX) and not validators.is_loopback(address)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Access; the fields are the keys of ``AccessTable``.

    Attributes:
        keys: content of ``keys_file``.
    """

    host_names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    keys_file: str = ""
    require_key: bool = False
    allow_remote: bool = False
    keys: tuple[GatewayKey, ...] = ()


_DEFAULTS = AccessSettings()


def _host_name(text: str) -> str:
    if text != text.lower() or not all(char.isalnum() or char in ".-" for char in text):
        raise InvalidValue(f"{quoted(text)} is not a host name in lower case, without a port")
    return text


def _origin(text: str) -> str:
    if text == "null":
        return text
    base = validators.url(text)
    if base.count("/") > 2:
        raise InvalidValue(f"{quoted(text)} is not an origin: write scheme, host and port, such as http://host:3000")
    return base.lower()


def _ip_address(text: str) -> str:
    try:
        return validators.split_address(f"[{text}]:1" if ":" in text else f"{text}:1")[0]
    except ValueError:
        raise InvalidValue(f"{quoted(text)} is not an IP address") from None


@keys_table
class AccessTable:
    """The keys of ``[gateway]`` that concern access."""

    host_names: tuple[str, ...] = key(
        ListOf(Text("host name", _host_name)),
        "Further names of this host in URLs. Requests that name another host are refused, so that web sites cannot "
        "reach the gateway through a browser.",
        default=(),
    )
    origins: tuple[str, ...] = key(
        ListOf(Text("origin", _origin)),
        "Web sites that may send requests by a browser, such as http://localhost:3000. Pages of the service itself may "
        "always do so.",
        default=(),
    )
    trusted_proxies: tuple[str, ...] = key(
        ListOf(Text("IP address", _ip_address)),
        "IP addresses of proxies in front of the gateway, whose X-Forwarded headers are believed.",
        default=(),
    )
    keys_file: str = key(
        Text("absolute path", validators.absolute_path),
        "File with the API keys of clients, which gpumanctl gateway key add writes. By default "
        "/etc/gpumand/gateway-keys.toml, which need not exist.",
        default=_DEFAULTS.keys_file,
    )
    require_key: bool = key(
        Boolean(),
        "API key for programs of this host: require one on loopback addresses and Unix sockets too.",
        default=_DEFAULTS.require_key,
    )
    allow_remote: bool = key(
        Boolean(),
        "Permission to listen at addresses that other hosts can reach. It requires API keys. Containers with a network "
        "of their own are other hosts. gpumand-gateway.service drops packets of other hosts: permit their addresses "
        "with systemctl edit gpumand-gateway, [Service] and IPAddressAllow=172.16.0.0/12, and restart it.",
        default=_DEFAULTS.allow_remote,
    )


def read_client_keys(file: Any, problems: ProblemList) -> tuple[GatewayKey, ...]:
    """Read the API keys of clients from the value of ``keys_file``."""
    return () if file is INVALID else load_keys(Path(file or DEFAULT_KEYS_FILE), problems, optional=not file)


def check_access(
    settings: AccessSettings, listens: Mapping[tuple[str, ...], Any], place: Place, problems: ProblemList
) -> None:
    """Refuse addresses that other hosts can reach without permission, and permissions without keys.

    Args:
        settings: the settings.
        listens: addresses by the path of their key below ``place``.
        place: the table of the gateway.
        problems: receives the problems.
    """
    for path, addresses in listens.items():
        for address in _remote(addresses) if not settings.allow_remote else ():
            text = f"{quoted(address)} is reachable from other hosts: use 127.0.0.1 or [::1], or set allow_remote"
            problems.add(place.at(*path), text)
    for name in ("allow_remote", "require_key"):
        if getattr(settings, name) is True and not settings.keys:
            problems.add(place.at(name), NEEDS_KEYS)


def _remote(addresses: Any) -> Iterable[str]:
    return () if addresses is INVALID else filter(is_remote, addresses)
