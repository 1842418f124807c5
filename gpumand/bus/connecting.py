"""Opens a connection to a bus, and releases its resources if that fails."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dbus_fast.aio import MessageBus

from gpumand.bus.addresses import resolve_address
from gpumand.bus.connection_errors import BusLost
from gpumand.bus.message_flags import accept_all_flag_combinations

CONNECT_TIMEOUT_SEC = 10.0


class _Bus(MessageBus):
    """The MessageBus of dbus-fast, with its socket closed on failure. Before 5.0 a failed connect leaves it open."""

    def __init__(self, address: str) -> None:
        try:
            super().__init__(bus_address=address, negotiate_unix_fd=False)  # before 5.0 this already connects
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the socket and the stream if they were opened; harmless if dbus-fast has closed them already."""
        sock, stream = getattr(self, "_sock", None), getattr(self, "_stream", None)
        if sock is not None and sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for part in (stream, sock):
            if part is not None:
                # Closing the stream flushes it, which fails on a broken socket.
                with suppress(OSError):
                    part.close()


async def open_bus(address: str) -> MessageBus:
    """Connect to "system", "session", or a D-Bus address. Raises BusLost."""
    resolved = resolve_address(address)
    accept_all_flag_combinations()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SEC):
            bus = await _connect(resolved)
    except TimeoutError:
        raise BusLost(f"cannot connect to the bus at {resolved}: no answer") from None
    except Exception as error:
        # dbus-fast raises its own errors, those of the socket and of its address parser, and EOFError.
        raise BusLost(f"cannot connect to the bus at {resolved}: {_describe(error)}") from error
    if not (bus.unique_name or "").startswith(":"):
        # dbus-fast takes the text of an error reply to Hello for the unique name.
        bus.disconnect()
        raise BusLost(f"cannot connect to the bus at {resolved}: {bus.unique_name}")
    return bus


def _describe(error: Exception) -> str:
    """Return the text of an error, for an OSError without the number."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return text or str(error) or type(error).__name__


async def _connect(address: str) -> MessageBus:
    bus = _Bus(address)
    try:
        return await bus.connect()
    except BaseException:
        bus.abandon()
        raise
