"""Reads what the doctor's checks of the gateway need: its configuration, its answer, and the sockets of this host."""

from __future__ import annotations

from pathlib import Path

from gpumand.cli.doctor.facts import GatewayFacts, GatewayListener
from gpumand.cli.errors import Failure
from gpumand.cli.gateway_api import SYSTEM_SOCKET, GatewayApi
from gpumand.config import ConfigProblems
from gpumand.config.validators import split_address
from gpumand.discovery.processes import command_line
from gpumand.discovery.sockets import listeners
from gpumand.gateway.access_config import is_remote
from gpumand.gateway.config import DEFAULT_FILE, ListenerSettings, load


def read_gateway(file: Path = DEFAULT_FILE, address: str = SYSTEM_SOCKET) -> GatewayFacts | None:
    """Return the facts about the gateway; None if it has no listeners and no address that other hosts can reach.

    This blocks, for a few seconds at most.

    Args:
        file: its configuration.
        address: the address at which it is asked for its listeners.
    """
    if not file.exists():
        return None
    try:
        settings = load(file)
    except ConfigProblems as error:
        return GatewayFacts(str(file), tuple(map(str, error.problems)))
    addresses = (address for one in settings.all_listeners().values() for address in one.listen)
    remote = tuple(dict.fromkeys(filter(is_remote, addresses)))
    if not settings.listeners and not remote:
        return None
    opened, error_text = _opened(address)
    configured = tuple(map(_listener, settings.listeners.values()))
    ports = {port for one in configured for _, port in one.addresses}
    found = [(one.address, one.port, command_line(one.pid) if one.port in ports else "") for one in listeners()[0]]
    return GatewayFacts(str(file), (), configured, opened, error_text, tuple(found), remote)


def _listener(settings: ListenerSettings) -> GatewayListener:
    addresses = [split_address(one) for one in settings.listen if not one.startswith("unix:")]
    return GatewayListener(settings.name, settings.consumer, tuple(addresses))


def _opened(address: str) -> tuple[dict[str, tuple[str, ...]] | None, str]:
    try:
        found = GatewayApi(address).get("listeners").get("listeners", [])
    except Failure as failure:
        return None, failure.message
    opened: dict[str, tuple[str, ...]] = {}
    for one in found:
        name = str(one.get("name", ""))
        opened[name] = (*opened.get(name, ()), str(one.get("address", "")))
    return opened, ""
