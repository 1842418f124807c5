"""How a connection to a bus comes about, and how nothing is left of one that does not."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from dbus_fast.aio import MessageBus

from gpumand.bus.connection_errors import BusLost
from gpumand.bus.message_flags import know_all_flags

CONNECT_TIMEOUT_SEC = 10.0


class _Bus(MessageBus):
    """The binding's connection. Before 5.0 it left its socket open where it did not come about."""

    def __init__(self, address: str) -> None:
        try:
            super().__init__(bus_address=address, negotiate_unix_fd=False)  # connects, before 5.0
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close what was opened, as far as it got; harmless where the binding has done so."""
        sock, stream = getattr(self, "_sock", None), getattr(self, "_stream", None)
        if sock is not None and sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for part in (stream, sock):
            if part is not None:
                with suppress(OSError):  # what was still to be written cannot be
                    part.close()


async def open_bus(address: str) -> MessageBus:
    """Connect to "system", "session", or a D-Bus address. Raises BusLost."""
    resolved = resolve_address(address)
    know_all_flags()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SEC):
            bus = await _connected(resolved)
    except TimeoutError:
        raise BusLost(f"cannot connect to the bus at {resolved}: no answer") from None
    except Exception as error:
        # The binding raises errors of its own, of the socket, of the address parser, and EOFError.
        raise BusLost(f"cannot connect to the bus at {resolved}: {_said(error)}") from error
    if not (bus.unique_name or "").startswith(":"):
        # An error in answer to Hello is taken for the name.
        bus.disconnect()
        raise BusLost(f"cannot connect to the bus at {resolved}: {bus.unique_name}")
    return bus


def _said(error: Exception) -> str:
    """What went wrong, in words: of the system's errors without their number."""
    words = error.strerror if isinstance(error, OSError) else str(error)
    return words or str(error) or type(error).__name__


async def _connected(address: str) -> MessageBus:
    bus = _Bus(address)
    try:
        return await bus.connect()
    except BaseException:
        bus.abandon()
        raise


def resolve_address(address: str) -> str:
    """Turn "system" or "session" into the address of that bus."""
    if address == "system":
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    if address == "session":
        runtime_dir = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime_dir}/bus"
    return address
