"""A connection to the bus for commands that make a few calls and end: blocking, without asyncio.

It has the methods of ``BusConnection`` that ``Calls`` needs, as coroutines that never suspend: they block instead. So
one implementation of the calls serves both, and ``run_blocking`` runs it without an event loop. Importing asyncio with
its TLS takes longer than such a command does.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from jeepney import DBusAddress, HeaderFields, Message, MessageFlag, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.low_level import Array, DictEntry, Struct, Variant, parse_signature

from gpumand.bus.addresses import resolve_address
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout, one_line
from gpumand.bus.error_text import without_name

CONNECT_TIMEOUT_SEC = 10.0

T = TypeVar("T")


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result. Raises what it raises."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("the coroutine suspends: it needs an event loop")


class BlockingConnection:
    """A connection to one bus. Create it with ``connect``."""

    def __init__(self, connection: DBusConnection) -> None:
        """Take over a connection of jeepney. Use ``connect`` instead."""
        self._connection = connection

    @classmethod
    def connect(cls, bus: str) -> BlockingConnection:
        """Connect to "system", "session", or a D-Bus address. Raises BusLost."""
        address = resolve_address(bus)
        try:
            return cls(open_dbus_connection(address, auth_timeout=CONNECT_TIMEOUT_SEC))
        except TimeoutError:
            raise BusLost(f"cannot connect to the bus at {address}: no answer") from None
        except Exception as error:
            # jeepney raises errors of its own, those of the socket, and ValueError for an address without a key.
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise BusLost(f"cannot connect to the bus at {address}: {text or type(error).__name__}") from error

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Iterable[Any] = (),
        *,
        timeout_sec: float = 25.0,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call a method and return its reply as plain values; arguments and errors are those of ``BusConnection``."""
        target = DBusAddress(path, bus_name=destination, interface=interface)
        message = new_method_call(target, member, signature or None, tuple(body))
        if interactive:
            message.header.flags |= MessageFlag.allow_interactive_authorization
        try:
            reply = self._connection.send_and_get_reply(message, timeout=timeout_sec)
        except TimeoutError:
            raise BusTimeout(f"{destination} did not answer {member} within {timeout_sec:g} s") from None
        except OSError as error:
            raise BusLost(f"the connection to the bus broke: {error.strerror or error}") from error
        return _result(reply)

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop

    def variants(self, options: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
        """Return an ``a{sv}`` argument made of names with their (signature, plain value)."""
        return dict(options)

    async def close(self) -> None:
        """Leave the bus."""
        with suppress(OSError):
            self._connection.close()

    async def close_shielded(self) -> None:
        """Leave the bus; nothing can cancel a call that blocks."""
        await self.close()


def _result(reply: Message) -> tuple[Any, ...]:
    fields = reply.header.fields
    if reply.header.message_type is MessageType.error:
        text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
        name = fields.get(HeaderFields.error_name, "")
        raise BusError(name, without_name(name, one_line(text)))
    kinds = parse_signature(list(f"({fields.get(HeaderFields.signature, '')})")).fields if reply.body else ()
    return tuple(_plain(kind, value) for kind, value in zip(kinds, reply.body, strict=True))


def _plain(kind: Any, value: Any) -> Any:
    """Return a value without variants: jeepney returns those as (signature, value), which only the type shows."""
    if isinstance(kind, Variant):
        signature, inner = value
        return _plain(parse_signature(list(signature)), inner)
    if isinstance(kind, Array):
        return _plain_array(kind.elt_type, value)
    if isinstance(kind, Struct):
        return [_plain(field, one) for field, one in zip(kind.fields, value, strict=True)]
    return value


def _plain_array(kind: Any, value: Any) -> Any:
    if isinstance(kind, DictEntry):
        key_kind, value_kind = kind.fields
        return {_plain(key_kind, key): _plain(value_kind, one) for key, one in value.items()}
    return value if isinstance(value, bytes) else [_plain(kind, one) for one in value]
