"""Checks of addresses for other hosts: the packet filters of the units let the packets of other hosts pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpumand.cli.doctor.facts import Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding, problem
from gpumand.config.validators import is_loopback, split_address
from gpumand.domain.ip_access import clients_to_allow, lets_only_this_host_in


def at_gateway(facts: Facts) -> Iterator[Finding]:
    """The unit of the gateway lets other hosts in, where a listener is meant for them."""
    gateway, unit = facts.gateway, facts.gateway_unit
    if gateway is None or unit is None or not facts.is_system:
        return
    # The lists of a service do not apply to the sockets that systemd passes to it.
    passed = {address for ones in (gateway.open or {}).values() for address in ones}
    addresses = [one for one in gateway.remote if f"systemd {one}" not in passed]
    yield from _blocked(facts, "the gateway", "gpumand-gateway", unit, addresses)


def at_status_address(facts: Facts) -> Iterator[Finding]:
    """gpumand.service lets other hosts in, where [http] is meant for them."""
    settings, unit = facts.config.settings, facts.service
    if settings is None or unit is None or not facts.is_system:
        return
    listen = settings.http.listen
    yield from _blocked(facts, "gpumand", "gpumand", unit, [listen] if listen and not is_loopback(listen) else [])


def _blocked(facts: Facts, program: str, name: str, unit: UnitFacts, addresses: Iterable[str]) -> Iterator[Finding]:
    """The finding about the addresses at which a unit drops the packets of all other hosts, with the drop-in."""
    blocked = [one for one in addresses if lets_only_this_host_in(split_address(one)[0], unit.ip_allow, unit.ip_deny)]
    if not blocked:
        return
    networks = clients_to_allow(split_address(one)[0] for one in blocked)
    yield problem(
        f"{program} listens at {', '.join(blocked)}, and IPAddressAllow= of {name}.service lets only this host in",
        "packets of other hosts and of containers are dropped, so that their connections time out",
        f"{facts.systemctl(f'edit {name}')}   # [Service] IPAddressAllow={networks}, or the addresses of the clients, "
        f"and then: {facts.systemctl(f'restart {name}')}",
    )
