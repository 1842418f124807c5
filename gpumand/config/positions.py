"""Finds the line and column of each key in a TOML text.

``tomllib`` reports positions of syntax errors only, but an error in a value has to be reported at the line of its key.
This module scans the text a second time for keys alone and recognises strings, arrays and inline tables only well
enough to skip them. ``tomllib`` decides what is valid. For text that it refuses, the scanner returns the keys it
recognised and never raises.
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
    """A position in a text; line and column are counted from 1, line 0 means unknown."""

    line: int = 0
    column: int = 0


def find_keys(text: str) -> dict[KeyPath, Position]:
    """Find every key and array element of a TOML text.

    Args:
        text: the document, with LF or CRLF line endings.

    Returns:
        The position of the first mention of each key. For a table this is the header or the dotted key that mentions
        it first.
    """
    text = text.replace("\r\n", "\n")
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    scanner = _Scanner(text)
    scanner.scan()
    return {path: _position(starts, offset) for path, offset in scanner.found.items()}


def _position(starts: list[int], offset: int) -> Position:
    line = bisect_right(starts, offset)
    return Position(line, offset - starts[line - 1] + 1)


# These patterns are unrolled loops, so that an unterminated string costs linear time. Possessive quantifiers would be
# shorter, but Python 3.11.2 (Debian 12) does not restore the position after an alternative with one has failed.
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


class _UnexpectedTextError(Exception):
    """The text at the current position does not match what TOML allows there."""


class _Scanner:
    """Scans one text once; ``found`` maps key paths to offsets."""

    def __init__(self, text: str) -> None:
        self.found: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._elements: dict[KeyPath, int] = {}  # arrays of tables, and how many [[headers]] each has had

    def scan(self) -> None:
        """Scan to the end; if a statement is not recognised, its line is skipped."""
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            try:
                table = self._statement(table)
            except (_UnexpectedTextError, RecursionError):
                self._skip(_REST_OF_LINE)

    def _statement(self, table: KeyPath) -> KeyPath:
        """Scan a header or an assignment and return the table that is open after it."""
        if self._accept("[["):
            return self._next_element(self._key(()))
        if self._accept("["):
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
        if not self._accept("="):
            raise _UnexpectedTextError
        self._skip(_SPACE)
        self._value(path)

    def _key(self, path: KeyPath) -> KeyPath:
        """Scan a key, dotted or not, with the spaces around it, and return its path below ``path``."""
        while True:
            self._skip(_SPACE)
            start = self._at
            path = (*path, self._key_part())
            self.found.setdefault(path, start)
            self._skip(_SPACE)
            if not self._accept("."):
                return path
            if path in self._elements:
                # A dotted name through an array of tables refers to the element that was opened last.
                path = (*path, self._elements[path] - 1)

    def _key_part(self) -> str:
        for pattern in (_BARE, _BASIC, _LITERAL):
            match = pattern.match(self._text, self._at)
            if match:
                self._at = match.end()
                return _unquoted(match.group())
        raise _UnexpectedTextError

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._at : self._at + 3]
        if opening in _STRING_END:
            self._at += 3
            self._expect(_STRING_END[opening])
        elif opening[:1] == "[":
            self._array(path)
        elif opening[:1] == "{":
            self._inline_table(path)
        elif opening[:1] in {'"', "'"}:
            self._expect(_BASIC if opening[0] == '"' else _LITERAL)
        else:
            self._expect(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while not self._closed("]"):
            element = (*path, index)
            self.found.setdefault(element, self._at)
            self._value(element)
            index += 1
            self._skip(_BLANK)
            self._accept(",")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._closed("}"):
            self._assignment(path)
            self._skip(_BLANK)
            self._accept(",")

    def _closed(self, bracket: str) -> bool:
        self._skip(_BLANK)
        return self._accept(bracket) or self._at >= len(self._text)

    def _expect(self, pattern: re.Pattern[str]) -> None:
        """Skip text that must match; every loop of the scanner ends because this method advances or raises."""
        match = pattern.match(self._text, self._at)
        if match is None or match.end() == self._at:
            raise _UnexpectedTextError
        self._at = match.end()

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _accept(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True


def _unquoted(key: str) -> str:
    if key[0] not in {'"', "'"}:
        return key
    if "\\" not in key:
        return key[1:-1]
    try:  # tomllib decodes the escapes
        return str(tomllib.loads("key = " + key)["key"])
    except tomllib.TOMLDecodeError:
        raise _UnexpectedTextError from None
