"""Decodes the bytes that a terminal sends into key names."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

ESCAPE = "escape"
UP, DOWN, HOME, END, PAGE_UP, PAGE_DOWN = "up", "down", "home", "end", "page-up", "page-down"
ENTER, INTERRUPT = "enter", "interrupt"
TAB, BACK_TAB, LEFT, RIGHT = "tab", "back-tab", "left", "right"
CLICK, WHEEL_UP, WHEEL_DOWN = "click", "wheel-up", "wheel-down"
"""Names of mouse events; the column and the line follow, counted from 0: ``click 12 5``."""

MAX_SEQUENCE = 32
"""Maximum length of an escape sequence; a longer one is dropped so that hostile input cannot grow the buffer."""

_CONTROL = {"\r": ENTER, "\n": ENTER, "\t": TAB, "\x03": INTERRUPT, "\x04": INTERRUPT}
_FINALS = {"A": UP, "B": DOWN, "C": RIGHT, "D": LEFT, "H": HOME, "F": END, "Z": BACK_TAB}
_NUMBERS = {"1": HOME, "7": HOME, "4": END, "8": END, "5": PAGE_UP, "6": PAGE_DOWN}


_MOUSE = {"0": CLICK, "64": WHEEL_UP, "65": WHEEL_DOWN}
"""Button of an SGR mouse sequence -> event. Other buttons and movements are ignored."""


def mouse_event(key: str) -> tuple[str, int, int] | None:
    """The event, column and line of the name of a mouse event; None for any other key."""
    name, _, place = key.partition(" ")
    if name not in _MOUSE.values() or not place:
        return None
    column, _, line = place.partition(" ")
    return name, int(column), int(line)


def _utf8() -> codecs.IncrementalDecoder:
    """A decoder that keeps the first bytes of a character until the rest arrives."""
    return codecs.getincrementaldecoder("utf-8")("replace")


@dataclass
class Decoder:
    """Decodes a stream of bytes into key names; a printable character is its own name."""

    _pending: str = field(default="", init=False)
    _text: codecs.IncrementalDecoder = field(default_factory=_utf8, init=False)

    @property
    def has_pending_escape(self) -> bool:
        """Whether an Escape byte arrived that may be the Escape key or the start of a sequence."""
        return bool(self._pending)

    def feed(self, octets: bytes) -> list[str]:
        """Decode more bytes and return the keys that they complete."""
        keys: list[str] = []
        for char in self._text.decode(octets):
            keys += self._take(char)
        return keys

    def flush(self) -> list[str]:
        """Report a pending Escape as the Escape key; call it when no further byte arrived for a while."""
        pending, self._pending = self._pending, ""
        return [ESCAPE] if pending == "\x1b" else []

    def _take(self, char: str) -> list[str]:
        if not self._pending:
            if char == "\x1b":
                self._pending = char
                return []
            return _plain(char)
        if self._pending == "\x1b" and char not in "[O":
            # Alt+key and Escape followed by a key send the same bytes. No action is bound to Alt: these are two keys.
            self._pending = ""
            return [ESCAPE, *self._take(char)]
        self._pending += char
        if (len(self._pending) > 2 and "\x40" <= char <= "\x7e") or len(self._pending) > MAX_SEQUENCE:
            sequence, self._pending = self._pending[2:], ""
            return _sequence_keys(sequence)
        return []


def _plain(char: str) -> list[str]:
    if char in _CONTROL:
        return [_CONTROL[char]]
    return [char] if char.isprintable() else []


def _sequence_keys(sequence: str) -> list[str]:
    """The key of a sequence after ``ESC [`` or ``ESC O``; unknown sequences are dropped."""
    parameters, final = sequence[:-1], sequence[-1]
    if parameters.startswith("<"):
        return _mouse(parameters[1:]) if final == "M" else []  # "m" is the release of a button
    name = _NUMBERS.get(parameters.partition(";")[0]) if final == "~" else _FINALS.get(final)
    return [name] if name else []


def _mouse(parameters: str) -> list[str]:
    """The mouse event of an SGR sequence: button, column and line, counted from 1."""
    numbers = parameters.split(";")
    # isdecimal: "²" is a digit that int() refuses. A place has at most five digits on any screen.
    if len(numbers) != 3 or not all(one.isdecimal() and one.isascii() and len(one) <= 5 for one in numbers):
        return []
    event, column, line = _MOUSE.get(numbers[0]), int(numbers[1]) - 1, int(numbers[2]) - 1
    return [f"{event} {column} {line}"] if event and column >= 0 and line >= 0 else []
