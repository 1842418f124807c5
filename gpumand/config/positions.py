"""Where each key of a TOML text stands.

``tomllib`` says line and column of syntax errors only; a fault in a *value* is told to people by the line of its key.
So the text is walked a second time, for keys alone: strings, arrays and inline tables are recognised just well enough
to step over them. ``tomllib`` stays the judge of what is valid; on text that it refuses, this finder returns what it
could make out and never fails.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""Keys from the root down; an int is an index in an array."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a text; both count from 1, ``line`` 0 is unknown."""

    line: int = 0
    column: int = 0


def find_keys(text: str) -> dict[KeyPath, Position]:
    """Find every key and array element of a TOML text.

    Args:
        text: the document; its line ends may be LF or CRLF.

    Returns:
        The position at which each is named first: tables by the header or the dotted key that first names them.
    """
    text = text.replace("\r\n", "\n")
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    scanner = _Scanner(text)
    scanner.scan()
    return {path: _position(starts, offset) for path, offset in scanner.found.items()}


def _position(starts: list[int], offset: int) -> Position:
    line = bisect_right(starts, offset)
    return Position(line, offset - starts[line - 1] + 1)


# Unrolled, so that an unterminated string costs linear time; possessive quantifiers would say it better, but Python
# 3.11.2 (Debian 12) does not go back to where a failed alternative began.
_BASIC = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_STRING_END = {
    '"""': re.compile(r'[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"{3,5}', re.DOTALL),
    "'''": re.compile(r"[^']*(?:'(?!'')[^']*)*'{3,5}"),
}


class _AstrayError(Exception):
    """What stands here is not what TOML has here."""


class _Scanner:
    """One walk through one text; ``found`` maps key paths to offsets."""

    def __init__(self, text: str) -> None:
        self.found: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._elements: dict[KeyPath, int] = {}  # arrays of tables, and how many [[headers]] each has had

    def scan(self) -> None:
        """Walk to the end; a statement that cannot be followed costs its line."""
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            try:
                table = self._statement(table)
            except (_AstrayError, RecursionError):
                self._skip(_REST_OF_LINE)

    def _statement(self, table: KeyPath) -> KeyPath:
        """A header or an assignment; returns the table that is open after it."""
        if self._eat("[["):
            return self._next_element(self._key(()))
        if self._eat("["):
            path = self._key(())
            self._skip(_REST_OF_LINE)
            return path
        self._assignment(table)
        return table

    def _next_element(self, path: KeyPath) -> KeyPath:
        index = self._elements.get(path, 0)
        self._elements[path] = index + 1
        element = (*path, index)
        self.found.setdefault(element, self._at)
        self._skip(_REST_OF_LINE)
        return element

    def _assignment(self, table: KeyPath) -> None:
        path = self._key(table)
        if not self._eat("="):
            raise _AstrayError
        self._skip(_SPACE)
        self._value(path)

    def _key(self, path: KeyPath) -> KeyPath:
        """A key, dotted or not, with the spaces around it."""
        while True:
            self._skip(_SPACE)
            start = self._at
            path = (*path, self._key_part())
            self.found.setdefault(path, start)
            self._skip(_SPACE)
            if not self._eat("."):
                return path
            if path in self._elements:
                path = (*path, self._elements[path] - 1)

    def _key_part(self) -> str:
        for pattern in (_BARE, _BASIC, _LITERAL):
            match = pattern.match(self._text, self._at)
            if match:
                self._at = match.end()
                return _unquoted(match.group())
        raise _AstrayError

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at : self._at + 3]
        if opening in _STRING_END:
            self._at += 3
            self._take(_STRING_END[opening])
        elif opening[:1] == "[":
            self._array(path)
        elif opening[:1] == "{":
            self._inline_table(path)
        elif opening[:1] in {'"', "'"}:
            self._take(_BASIC if opening[0] == '"' else _LITERAL)
        else:
            self._take(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while not self._closed("]"):
            element = (*path, index)
            self.found.setdefault(element, self._at)
            self._value(element)
            index += 1
            self._skip(_BLANK)
            self._eat(",")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._closed("}"):
            self._assignment(path)
            self._skip(_BLANK)
            self._eat(",")

    def _closed(self, bracket: str) -> bool:
        self._skip(_BLANK)
        return self._eat(bracket) or self._at >= len(self._text)

    def _take(self, pattern: re.Pattern[str]) -> None:
        """Step over something that must be there: every loop above ends because this moves or raises."""
        match = pattern.match(self._text, self._at)
        if match is None or match.end() == self._at:
            raise _AstrayError
        self._at = match.end()

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _eat(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True


def _unquoted(key: str) -> str:
    if key[0] not in {'"', "'"}:
        return key
    if "\\" not in key:
        return key[1:-1]
    try:  # escapes are tomllib's business
        return str(tomllib.loads("key = " + key)["key"])
    except tomllib.TOMLDecodeError:
        raise _AstrayError from None
