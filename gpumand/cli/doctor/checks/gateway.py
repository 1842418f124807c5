"""Checks of the gateway: that it answers, that its ports are its own, and that its services are behind it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from gpumand.cli.doctor.facts import Facts, GatewayFacts, GatewayListener
from gpumand.cli.doctor.finding import Finding, problem, warning

SERVICE = "gpumand-gateway.service"


def reachable(facts: Facts) -> Iterator[Finding]:
    """The configuration of the gateway is valid, and the gateway answers."""
    gateway = facts.gateway
    if gateway is None:
        return
    for line in gateway.problems:
        yield problem(f"the configuration of the gateway is invalid: {line}", "", facts.systemctl(f"reload {SERVICE}"))
    if gateway.error:
        why = f"clients of {', '.join(one.name for one in gateway.listeners) or 'its address'} get no answer"
        yield problem(gateway.error, why, facts.systemctl(f"restart {SERVICE}"))


def listeners(facts: Facts) -> Iterator[Finding]:
    """Every configured listener is open, and no other program has its port."""
    gateway = facts.gateway
    if gateway is None:
        return
    for one in gateway.listeners:
        if facts.config.settings is not None and one.consumer not in facts.consumers:
            what = f"the listener {one.name} of the gateway leads to {one.consumer}, which is not configured"
            yield problem(what, "its requests are refused", f"add [consumers.{one.consumer}], or set consumer")
        if gateway.open is None or one.name not in gateway.open:
            yield from _not_open(facts, gateway, one)


def _not_open(facts: Facts, gateway: GatewayFacts, one: GatewayListener) -> Iterator[Finding]:
    taken = [(port, command) for _, port, command in gateway.sockets if port in {port for _, port in one.addresses}]
    for port, command in dict(taken).items():
        by = f"another program ({command[:80]})" if command else "another program"
        why = f"the gateway cannot listen there for {one.consumer}"
        fix = f"move the service to another port: {facts.ctl_as_root('init --gateway')}"
        yield problem(f"port {port} is used by {by}", why, fix)
    if not taken and gateway.open is not None:
        what = f"the gateway has not opened the listener {one.name}"
        yield warning(what, "its configuration changed after the start", facts.systemctl(f"reload {SERVICE}"))


def services(facts: Facts) -> Iterator[Finding]:
    """The url of each service is not the gateway's own address, and only this host can reach the service itself."""
    gateway = facts.gateway
    if gateway is None:
        return
    own = {port: one.name for one in gateway.listeners for _, port in one.addresses}
    for name in dict.fromkeys(one.consumer for one in gateway.listeners):
        spec = facts.consumers.get(name)
        port = _port(spec.url) if spec is not None else 0
        if port in own:
            what = f"the url of {name} is the gateway's own listener {own[port]}"
            why = "requests would go round in a circle"
            yield problem(what, why, f"move the service: {facts.ctl_as_root('init --gateway')}")
        elif port and (exposed := _exposed(gateway, port)):
            what = f"{name} itself listens at {exposed}, behind the gateway"
            why = "clients on other hosts can use it without a lease, so that it may run out of memory"
            yield warning(what, why, "let the service listen at 127.0.0.1 only")


def _exposed(gateway: GatewayFacts, port: int) -> str:
    """An address that other hosts can reach, at which something listens on this port; "" if there is none."""
    for address, used, _ in gateway.sockets:
        if used == port and not ip_address(address).is_loopback:
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return ""


def _port(url: str) -> int:
    try:
        parts = urlsplit(url)
        is_local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        return (parts.port or 80) if is_local else 0
    except ValueError:
        return 0
