"""Socket units for the listeners of ``gpumand-gateway``: systemd keeps them while the gateway is restarted."""

from __future__ import annotations

from gpumand.gateway.access_config import is_remote
from gpumand.gateway.config import GatewaySettings, ListenerSettings

UNIT_FOLDER = "/etc/systemd/system"
_SOCKET_PREFIX = "unix:"


def socket_units(settings: GatewaySettings) -> dict[str, str]:
    """Return the text of one unit for each listener that has an address, by the name of the unit."""
    return {f"gpumand-gateway-{one.name}.socket": _unit(one) for one in settings.listeners.values() if one.listen}


def _unit(listener: ListenerSettings) -> str:
    addresses = [f"ListenStream={one.removeprefix(_SOCKET_PREFIX).replace('%', '%%')}" for one in listener.listen]
    # Loopback addresses are open to every user too.
    mode = ["SocketMode=0666"] if any(one.startswith(_SOCKET_PREFIX) for one in listener.listen) else []
    # An address of a bridge, or one from DHCP, may come later at boot than the socket.
    free_bind = ["FreeBind=yes"] if any(map(is_remote, listener.listen)) else []
    lines = [
        "[Unit]",
        f"Description=VRAM Arbiter Gateway Socket of {listener.name}",
        "Documentation=man:gpumand-gateway(8)",
        "",
        "[Socket]",
        *addresses,
        *mode,
        *free_bind,
        "Service=gpumand-gateway.service",
        f"FileDescriptorName={listener.name}",
        "",
        "[Install]",
        "WantedBy=sockets.target",
    ]
    return "\n".join(lines) + "\n"
