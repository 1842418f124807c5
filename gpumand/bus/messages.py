"""D-Bus messages of dbus-fast: method calls, and signals to one receiver."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType

from gpumand.bus.variants import require_no_nul


def method_call(
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str,
    body: Iterable[Any],
    flags: MessageFlag,
    serial: int,
) -> Message:
    """A method call; ``interface`` may be "". Raises ValueError for a string with a NUL."""
    arguments = list(body)
    require_no_nul(arguments)
    return Message(
        destination=destination,
        path=path,
        interface=interface or None,
        member=member,
        signature=signature,
        body=arguments,
        flags=flags,
        serial=serial,
    )


def unicast_signal(
    destination: str, path: str, interface: str, member: str, signature: str, arguments: list[Any]
) -> Message:
    """A signal that only the client ``destination`` (a unique name) receives; its serial is set when it is sent."""
    return Message(
        message_type=MessageType.SIGNAL,
        destination=destination,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=arguments,
    )
