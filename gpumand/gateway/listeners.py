"""The sockets that the gateway listens on: those of its configuration, and those that systemd passes by name."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Mapping, Sequence

from gpumand.config.validators import split_address
from gpumand.domain.errors import ConfigInvalid
from gpumand.gateway.acceptor import BACKLOG, Acceptor
from gpumand.gateway.access_config import SOCKET_PREFIX, is_remote
from gpumand.gateway.config import ListenerSettings
from gpumand.gateway.entrance_config import GATEWAY
from gpumand.http.free_bind import bind_now_or_later

log = logging.getLogger(__name__)

_PASSED = "systemd "
"""Start of the names of sockets that systemd has passed."""

SOCKET_MODE = 0o666
"""Every user of the host may connect, as to a loopback address; the kernel names the user."""


class Listeners:
    """The open listeners.

    Args:
        acceptor: accepts the connections.
        passed: listening sockets by listener name, as systemd passed them.
    """

    def __init__(self, acceptor: Acceptor, passed: Mapping[str, Sequence[socket.socket]]) -> None:
        self._acceptor = acceptor
        self._passed = dict(passed)
        self._servers: dict[tuple[str, str], asyncio.Server] = {}

    @property
    def remote(self) -> tuple[str, ...]:
        """The IP addresses of the sockets that the gateway has opened itself and that other hosts can reach.

        Those that systemd passes are not among them: the lists of addresses of the gateway's unit do not apply to them.
        """
        opened = [one for _, one in self._servers if not one.startswith(_PASSED) and is_remote(one)]
        return tuple(dict.fromkeys(split_address(one)[0] for one in opened))

    @property
    def addresses(self) -> tuple[tuple[str, str], ...]:
        """Names and addresses of all listeners."""
        return tuple(self._servers)

    async def configure(self, listeners: Mapping[str, ListenerSettings], *, allow_remote: bool = False) -> None:
        """Listen at the configured addresses; connections that are open stay open.

        Args:
            listeners: the listeners by name.
            allow_remote: whether other hosts may reach them; the configuration has keys then.

        Raises:
            ConfigInvalid: an address cannot be listened on, or a listener has no address; nothing is changed then.
        """
        wanted = {(name, address) for name, one in listeners.items() for address in self._addresses(one)}
        opened: dict[tuple[str, str], asyncio.Server] = {}
        try:
            for name, address in sorted(wanted - self._servers.keys()):
                opened[name, address] = await self._open(name, address, allow_remote)
        except ConfigInvalid:
            for server in opened.values():
                server.close()
            raise
        for gone in self._servers.keys() - wanted:
            self._servers.pop(gone).close()
        self._servers |= opened

    def close(self) -> None:
        """Stop accepting connections."""
        for (_, address), server in self._servers.items():
            server.close()
            if address.startswith(SOCKET_PREFIX):
                with contextlib.suppress(OSError):
                    os.unlink(address.removeprefix(SOCKET_PREFIX))
        self._servers.clear()

    def _addresses(self, one: ListenerSettings) -> tuple[str, ...]:
        passed = tuple(_passed_name(found) for found in self._passed.get(one.name, ()))
        if not one.listen and not passed:
            key = _key(one.name)
            raise ConfigInvalid(f"{key} is missing, and systemd passed no socket named {one.name}. Set an address")
        # A socket unit may listen at an address that the configuration names too; systemd holds it then.
        taken = {_address(found) for found in self._passed.get(one.name, ())}
        return (*(address for address in one.listen if _comparable(address) not in taken), *passed)

    async def _open(self, name: str, address: str, allow_remote: bool) -> asyncio.Server:
        listener = self._passed_socket(name, address) or _bound(name, address)
        is_open = listener.family != socket.AF_UNIX and not _is_loopback(listener)
        if is_open and not allow_remote:
            listener.close()
            text = f"the socket of {name} is reachable from other hosts. Use a loopback address, or set allow_remote"
            raise ConfigInvalid(f"{_key(name)}: {text}")
        log.info("%s: listening on %s", name, address)
        return await self._acceptor.open(listener, name, listener.family != socket.AF_UNIX and not is_open)

    def _passed_socket(self, name: str, address: str) -> socket.socket | None:
        found = next((one for one in self._passed.get(name, ()) if address == _passed_name(one)), None)
        # A copy, so that the socket can be used again when the listener comes back with a later configuration.
        return found.dup() if found is not None else None


def _key(name: str) -> str:
    """The configuration key with the addresses of a listener."""
    return "gateway.listen" if name == GATEWAY else f"gateway.listeners.{name}.listen"


def _address(listener: socket.socket) -> str:
    """The address of a socket, as ``_comparable`` writes it."""
    name = listener.getsockname()
    return f"{SOCKET_PREFIX}{name}" if listener.family == socket.AF_UNIX else f"{name[0]} {name[1]}"


def _passed_name(listener: socket.socket) -> str:
    """The name of a socket that systemd passed; it differs from an address that the gateway has bound itself."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{_PASSED}{SOCKET_PREFIX}{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"{_PASSED}{host}:{name[1]}"


def _comparable(address: str) -> str:
    if address.startswith(SOCKET_PREFIX):
        return address
    host, port = split_address(address)
    return f"{ipaddress.ip_address(host)} {port}"


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(str(listener.getsockname()[0])).is_loopback


def _bound(name: str, address: str) -> socket.socket:
    """A socket that listens at an address. Raises ConfigInvalid."""
    is_unix = address.startswith(SOCKET_PREFIX)
    try:
        listener = _bound_path(address.removeprefix(SOCKET_PREFIX)) if is_unix else _bound_tcp(address)
    except OSError as error:
        text = f"cannot listen on {address}: {error.strerror or error}. Choose a free address of this host"
        raise ConfigInvalid(f"{_key(name)}: {text}") from None
    listener.setblocking(False)
    return listener


def _bound_tcp(address: str) -> socket.socket:
    host, port = split_address(address)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Otherwise bind fails after a restart as long as connections of the former process are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind_now_or_later(listener, host, port)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _bound_path(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket that a process which was killed has left behind."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return
