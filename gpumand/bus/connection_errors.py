"""What can go wrong between us and a bus."""

from __future__ import annotations

from gpumand.domain.errors import FREEDESKTOP

MAX_MESSAGE_CHARS = 2048


def one_line(text: str) -> str:
    """Text of a peer as one line that fits into an error message and back onto the bus."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_MESSAGE_CHARS])
    return " ".join(printable.split())[:MAX_MESSAGE_CHARS]


class BusError(Exception):
    """A peer, or the bus for it, answered with an error.

    Attributes:
        name: the error's D-Bus name.
        message: its text, one line.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class BusTimeout(BusError):
    """No answer in time."""

    def __init__(self, message: str) -> None:
        super().__init__(FREEDESKTOP + "NoReply", message)


class BusLost(Exception):
    """The connection to the bus is gone, or could not be made; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
