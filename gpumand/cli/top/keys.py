"""Decodes the bytes that a terminal sends into key names."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

ESCAPE = "escape"
UP, DOWN, HOME, END, PAGE_UP, PAGE_DOWN = "up", "down", "home", "end", "page-up", "page-down"
ENTER, INTERRUPT = "enter", "interrupt"

MAX_SEQUENCE = 32
"""Maximum length of an escape sequence; a longer one is dropped so that hostile input cannot grow the buffer."""

_CONTROL = {"\r": ENTER, "\n": ENTER, "\x03": INTERRUPT, "\x04": INTERRUPT}
_FINALS = {"A": UP, "B": DOWN, "H": HOME, "F": END}
_NUMBERS = {"1": HOME, "7": HOME, "4": END, "8": END, "5": PAGE_UP, "6": PAGE_DOWN}


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
    name = _NUMBERS.get(parameters.partition(";")[0]) if final == "~" else _FINALS.get(final)
    return [name] if name else []
