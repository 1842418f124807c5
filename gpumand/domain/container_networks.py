"""Addresses of containers: whether gpumand.service, which may connect to this host only, can reach one. No I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from gpumand.domain.container import PublishedPort

_PREFIXES = {4: 16, 6: 64}
"""Prefix lengths of the networks to allow: Docker's default networks are of /16, and Podman's of /24 in one /16."""


def is_dnat_only(ports: Iterable[PublishedPort], addresses: Collection[str], listening: Collection[int]) -> bool:
    """Whether a container is reached only through rules of the packet filter, which rewrite the destination.

    Args:
        ports: its published ports.
        addresses: its addresses in networks of the engine; a container with the host's network has none.
        listening: TCP ports at which processes of the host listen, such as docker-proxy and rootlessport.
    """
    return bool(addresses) and any(one.host_port not in listening for one in ports)


def allow_addresses(addresses: Iterable[str]) -> str:
    """The networks of addresses, as IPAddressAllow= accepts them; they stay valid when a container is restarted."""
    found = dict.fromkeys(network for address in addresses if (network := _network(address)))
    return " ".join(found)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((parsed, _PREFIXES[parsed.version]), strict=False))
