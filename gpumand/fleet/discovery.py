"""Finds the members of etcd by the SRV records of a DNS domain, which systemd-resolved looks up.

``etcd --discovery-srv`` and ``etcdctl --discovery-srv`` use the same records: ``_etcd-client-ssl._tcp.DOMAIN``. A
forged answer leads to a member that has no certificate of the fleet, so it gets neither a request nor the password.

Source of the method: org.freedesktop.resolve1(5), ResolveService.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from gpumand.bus.connection import BusConnection
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.config.value_types import InvalidValue
from gpumand.fleet.config import agent_url
from gpumand.fleet.store import StoreUnavailable

SERVICE = "_etcd-client-ssl._tcp"
MAX_MEMBERS = 16
LOOKUP_SEC = 5.0

RESOLVE1, RESOLVE1_PATH, RESOLVE1_MANAGER = (
    "org.freedesktop.resolve1",
    "/org/freedesktop/resolve1",
    "org.freedesktop.resolve1.Manager",
)
_ANY_INTERFACE, _ANY_FAMILY = 0, 0
_NO_TXT, _NO_ADDRESS = 1 << 6, 1 << 7

_ABSENT = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.systemd1.",  # it is installed, and its unit is disabled or masked
)

_NO_SUCH_NAME = "org.freedesktop.resolve1.DnsError.NXDOMAIN"


async def discover(domain: str, bus: str = "system") -> tuple[str, ...]:
    """The URLs of the members, the preferred ones first: by priority, then by weight.

    Args:
        domain: the DNS domain.
        bus: the bus of systemd-resolved.

    Raises StoreUnavailable.
    """
    name = f"{SERVICE}.{domain}"
    try:
        async with asyncio.timeout(LOOKUP_SEC):
            records = await _look_up(name, bus)
    except TimeoutError:
        raise StoreUnavailable(f"the SRV records of {name} were not found within {LOOKUP_SEC:g} s") from None
    except (BusLost, BusTimeout, OSError) as error:
        raise StoreUnavailable(f"the SRV records of {name} cannot be looked up: {error}") from None
    except BusError as error:
        raise StoreUnavailable(_words(name, error)) from None
    if found := members(records):
        return found
    raise StoreUnavailable(f"DNS has no SRV records of {name}. Add them, or set endpoints in fleet.toml instead")


def members(records: Iterable[Any]) -> tuple[str, ...]:
    """The URLs in SRV records, each as priority, weight, port and host name, and more that is not used."""
    whole = [one for one in records if isinstance(one, list | tuple) and len(one) >= 4]
    found = sorted((one[0], -one[1], url) for one in whole if (url := _url(one)))
    return tuple(dict.fromkeys(url for _, _, url in found))[:MAX_MEMBERS]


def _url(record: list[Any] | tuple[Any, ...]) -> str:
    priority, weight, port, host = record[:4]
    if not all(isinstance(one, int) for one in (priority, weight, port)) or not isinstance(host, str):
        return ""
    try:
        return agent_url(f"https://{host.rstrip('.')}:{port}")
    except InvalidValue:
        return ""  # "." stands for a service that does not exist


async def _look_up(name: str, bus: str) -> list[Any]:
    connection = await BusConnection.connect(bus)
    try:
        arguments = (_ANY_INTERFACE, "", "", name, _ANY_FAMILY, _NO_TXT | _NO_ADDRESS)
        where = (RESOLVE1, RESOLVE1_PATH, RESOLVE1_MANAGER)
        answer = await connection.call(*where, "ResolveService", "isssit", arguments, timeout_sec=LOOKUP_SEC)
    finally:
        await connection.close()
    return list(answer[0]) if answer and isinstance(answer[0], list | tuple) else []


def _words(name: str, error: BusError) -> str:
    """Why a lookup failed, with what to do."""
    if error.name.startswith(_ABSENT):
        start = "systemctl enable --now systemd-resolved"
        advice = (
            f"Install it (apt install systemd-resolved), start it ({start}), or set endpoints in fleet.toml instead"
        )
        return f"the SRV records of {name} cannot be looked up: systemd-resolved does not run. {advice}"
    text = f"the SRV records of {name} cannot be looked up: {error.message.rstrip('.')}"
    if error.name == _NO_SUCH_NAME:
        return f"{text}. Add them to the zone, or set endpoints in fleet.toml instead"
    return (
        f"{text}. Check the name servers of this host: resolvectl service {SERVICE} {name.removeprefix(f'{SERVICE}.')}"
    )
