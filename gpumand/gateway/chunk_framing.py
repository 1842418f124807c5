"""Follows the framing of a chunked body, before any library parses it.

Parsers differ in what they tolerate: line feeds without carriage returns, signs and underscores in sizes, any byte in
an extension. Two programs that read such a body differently take different bytes for the next request.
"""

from __future__ import annotations

import re
from enum import Enum

MAX_LINE_BYTES = 4096
"""Maximum length of a line: a size with its extensions, or a field of the trailer."""

MAX_TRAILER_BYTES = 16 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_END = b"\r\n"


class _Part(Enum):
    SIZE = "size"
    DATA = "data"
    END_OF_DATA = "end of data"
    TRAILER = "trailer"
    NONE = "none"


class ChunkFraming:
    """The framing of one body.

    Attributes:
        is_broken: whether the body is invalid; nothing after that point belongs to it.
        rest: what has arrived after the end of the body.
    """

    def __init__(self) -> None:
        self.is_broken = False
        self._part = _Part.SIZE
        self._left = self._trailer_bytes = 0
        self._held = self.rest = b""

    @property
    def is_complete(self) -> bool:
        """Whether the body has ended."""
        return self._part is _Part.NONE

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the connection.

        Returns:
            What may be parsed now: valid parts of the body, and what follows its end. Lines are held back until they
            are complete.
        """
        if self.is_broken:
            return b""
        data, self._held, at = self._held + data, b"", 0
        while at < len(data) and not self.is_complete:
            step = self._step(data, at)
            if not step:
                self._held = data[at:]
                self.is_broken = self.is_broken or len(self._held) > MAX_LINE_BYTES
                return data[:at]
            at += step
        self.rest = data[at:]
        return data

    def _step(self, data: bytes, at: int) -> int:
        """Read one part from a position; returns its length, and 0 if it is incomplete or invalid."""
        if self._part is _Part.DATA:
            step = min(self._left, len(data) - at)
            self._left -= step
            self._part = _Part.DATA if self._left else _Part.END_OF_DATA
            return step
        end = data.find(b"\n", at, at + MAX_LINE_BYTES) + 1
        if not end:
            # The end of the data is known without a line: any other byte there is invalid at once.
            self.is_broken = self._part is _Part.END_OF_DATA and not _END.startswith(data[at : at + 2])
            return 0
        self.is_broken = not self._take_line(data[at:end])
        return 0 if self.is_broken else end - at

    def _take_line(self, line: bytes) -> bool:
        """Take a line into account; returns whether it is valid."""
        if self._part is _Part.END_OF_DATA:
            self._part = _Part.SIZE
            return line == _END
        if self._part is _Part.TRAILER:
            self._trailer_bytes += len(line)
            self._part = _Part.NONE if line == _END else _Part.TRAILER
            return self._trailer_bytes <= MAX_TRAILER_BYTES and (line == _END or _FIELD.fullmatch(line) is not None)
        found = _SIZE.fullmatch(line)
        if found is None:
            return False
        self._left = int(found[1], 16)
        self._part = _Part.DATA if self._left else _Part.TRAILER
        return True
