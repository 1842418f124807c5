"""Which addresses the packet filter of a unit (IPAddressAllow= and IPAddressDeny=) lets in. No I/O.

systemd.resource-control(5): a packet passes if its other end is in IPAddressAllow=, else it is dropped if that is in
IPAddressDeny=, else it passes. The lists of a service do not apply to sockets that systemd passes to it, only to those
that its processes create.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_BRIDGES = ipaddress.ip_network("172.16.0.0/12")
"""Docker takes the networks of its bridges from here first, and a program in any of them may be a client."""

_EXAMPLE = "192.168.1.0/24"
_PREFIXES = {4: 24, 6: 64}


def networks_of(value: Any) -> tuple[str, ...]:
    """Networks of systemd's property: a list of (address family, bytes of the address, prefix length)."""
    found = []
    for one in value if isinstance(value, list) else []:
        with suppress(ValueError, TypeError, IndexError):
            found.append(str(_network(f"{ipaddress.ip_address(bytes(one[1]))}/{int(one[2])}")))
    return tuple(found)


def lets_only_this_host_in(address: str, allow: Iterable[str], deny: Iterable[str]) -> bool:
    """Whether a unit drops the packets of all other hosts to a socket at an address that it has opened itself.

    Args:
        address: the IP address that the socket listens at.
        allow: the networks of IPAddressAllow=, as ``networks_of`` returns them.
        deny: those of IPAddressDeny=.
    """
    version = ipaddress.ip_address(address).version
    # A socket at [::] has clients with IPv4 addresses too, unless the host forbids that.
    families = {4, 6} if ipaddress.ip_address(address) == ipaddress.IPv6Address("::") else {version}
    denied = {one.version for one in map(_network, deny) if one.prefixlen == 0}
    allowed = {one.version for one in map(_network, allow) if not one.is_loopback}
    return families <= denied and not families & allowed


def clients_to_allow(addresses: Iterable[str]) -> str:
    """An example of IPAddressAllow= for the clients of listeners: the networks that the addresses are probably in."""
    found = dict.fromkeys(network for address in addresses if (network := _probable_network(address)))
    return " ".join(found) or _EXAMPLE


def _probable_network(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified or not parsed.is_private:
        return ""
    if parsed in _BRIDGES:
        return str(_BRIDGES)
    return str(ipaddress.ip_network((parsed, _PREFIXES[parsed.version]), strict=False))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text, strict=False)
