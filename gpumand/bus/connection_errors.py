"""Errors of D-Bus connections and calls."""

from __future__ import annotations

from gpumand.domain.errors import FREEDESKTOP_ERROR_PREFIX

MAX_MESSAGE_CHARS = 2048


def one_line(text: str) -> str:
    """Return a peer's text as one printable line of limited length, safe for error messages and for the bus."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_MESSAGE_CHARS])
    return " ".join(printable.split())[:MAX_MESSAGE_CHARS]


class BusError(Exception):
    """A call was answered with an error, by the called peer or by the bus.

    Attributes:
        name: D-Bus name of the error.
        message: text of the error, one line.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class BusTimeout(BusError):
    """A call was not answered in time."""

    def __init__(self, message: str) -> None:
        super().__init__(FREEDESKTOP_ERROR_PREFIX + "NoReply", message)


class BusLost(Exception):
    """The connection to the bus is gone or could not be opened; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
