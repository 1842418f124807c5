"""What was typed, out of the bytes that a terminal sends."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

ESCAPE = "escape"
UP, DOWN, HOME, END, PAGE_UP, PAGE_DOWN = "up", "down", "home", "end", "page-up", "page-down"
ENTER, INTERRUPT = "enter", "interrupt"

MAX_SEQUENCE = 32
"""Bytes of an escape sequence; a longer one is none."""

_CONTROL = {"\r": ENTER, "\n": ENTER, "\x03": INTERRUPT, "\x04": INTERRUPT}
_FINALS = {"A": UP, "B": DOWN, "H": HOME, "F": END}
_NUMBERS = {"1": HOME, "7": HOME, "4": END, "8": END, "5": PAGE_UP, "6": PAGE_DOWN}


def _utf8() -> codecs.IncrementalDecoder:
    """Of a character whose bytes come in two pieces, the first piece waits."""
    return codecs.getincrementaldecoder("utf-8")("replace")


@dataclass
class Decoder:
    """Takes bytes as they come, gives names of keys; a letter is its own name."""

    _pending: str = field(default="", init=False)
    _text: codecs.IncrementalDecoder = field(default_factory=_utf8, init=False)

    @property
    def waits(self) -> bool:
        """Whether an Escape has come that may be the key, or the beginning of a sequence."""
        return bool(self._pending)

    def feed(self, octets: bytes) -> list[str]:
        """The keys that these bytes complete."""
        keys: list[str] = []
        for char in self._text.decode(octets):
            keys += self._take(char)
        return keys

    def flush(self) -> list[str]:
        """Nothing more has come for a while: what waits was the key Escape."""
        pending, self._pending = self._pending, ""
        return [ESCAPE] if pending == "\x1b" else []

    def _take(self, char: str) -> list[str]:
        if not self._pending:
            if char == "\x1b":
                self._pending = char
                return []
            return _plain(char)
        if self._pending == "\x1b" and char not in "[O":
            # Alt and a key, or Escape and then a key: nothing here is bound to Alt.
            self._pending = ""
            return [ESCAPE, *self._take(char)]
        self._pending += char
        if (len(self._pending) > 2 and "\x40" <= char <= "\x7e") or len(self._pending) > MAX_SEQUENCE:
            sequence, self._pending = self._pending[2:], ""
            return _named(sequence)
        return []


def _plain(char: str) -> list[str]:
    if char in _CONTROL:
        return [_CONTROL[char]]
    return [char] if char.isprintable() else []


def _named(sequence: str) -> list[str]:
    """A sequence behind ``ESC [`` or ``ESC O``; those that mean nothing here are dropped."""
    parameters, final = sequence[:-1], sequence[-1]
    name = _NUMBERS.get(parameters.partition(";")[0]) if final == "~" else _FINALS.get(final)
    return [name] if name else []
