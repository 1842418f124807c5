"""Finds the field ``model`` in a multipart form while the form arrives; nothing else is kept of it.

Some clients send the model before the file, and some after it.
"""

from __future__ import annotations

import re
from email.message import Message
from enum import Enum

MAX_BOUNDARY = 200
MAX_HEADERS = 16 * 1024
MAX_VALUE = 1024
FIELD = "model"

_DISPOSITION = re.compile(rb"^content-disposition:[ \t]*form-data(.*)$", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb';[ \t]*name[ \t]*=[ \t]*(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE)
_FILE = re.compile(rb";[ \t]*filename\*?[ \t]*=", re.IGNORECASE)


class BadForm(Exception):
    """The form cannot be read; the message says why."""


class _State(Enum):
    CONTENT = 1
    """Inside a part, or before the first one."""

    DELIMITER = 2
    """After a delimiter, which may be the last one."""

    HEADERS = 3
    END = 4


def boundary_of(content_type: str) -> bytes:
    """The boundary in a Content-Type header. Raises BadForm."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary("")
    if not boundary or len(boundary) > MAX_BOUNDARY or not boundary.isascii():
        raise BadForm("the Content-Type header has no usable boundary")
    return boundary.encode()


class FormScanner:
    """Reads a form.

    Args:
        boundary: the boundary between its parts.

    Attributes:
        model: the value of the field; None until it was read.
        span: begin and end of the value in the form.
    """

    def __init__(self, boundary: bytes) -> None:
        self.model: str | None = None
        self.span = (0, 0)
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter has no line end before it.
        self._rest, self._at = bytearray(b"\r\n"), -2
        self._state, self._is_model = _State.CONTENT, False

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes. Raises BadForm."""
        self._rest += chunk
        while self.model is None and self._step():
            pass

    def _step(self) -> bool:
        """Go one step further; False if more bytes are needed."""
        if self._state is _State.CONTENT:
            return self._content()
        if self._state is _State.DELIMITER:
            return self._after_delimiter()
        if self._state is _State.HEADERS:
            return self._headers()
        self._take(len(self._rest))
        return False

    def _content(self) -> bool:
        found = self._rest.find(self._delimiter)
        if self._is_model:
            return self._value(found)
        if found < 0:
            self._take(max(0, len(self._rest) - len(self._delimiter) + 1))
            return False
        self._take(found + len(self._delimiter))
        self._state = _State.DELIMITER
        return True

    def _value(self, found: int) -> bool:
        if (found if found >= 0 else len(self._rest) - len(self._delimiter)) > MAX_VALUE:
            raise BadForm(f"the field {FIELD} is longer than {MAX_VALUE} bytes")
        if found < 0:
            return False
        try:
            self.model = self._rest[:found].decode().strip()
        except UnicodeDecodeError:
            raise BadForm(f"the field {FIELD} is not UTF-8") from None
        self.span = self._at, self._at + found
        return True

    def _after_delimiter(self) -> bool:
        if len(self._rest) < 2:
            return False
        is_last = self._rest.startswith(b"--")
        self._state = _State.END if is_last else _State.HEADERS
        return True

    def _headers(self) -> bool:
        # The line end after the delimiter belongs to the search: a part may have no headers.
        found = self._rest.find(b"\r\n\r\n")
        if found < 0:
            if len(self._rest) > MAX_HEADERS:
                raise BadForm("a part of the form has headers that are too long")
            return False
        self._is_model = _is_model(bytes(self._rest[:found]))
        self._take(found + 4)
        self._state = _State.CONTENT
        if not self._is_model:
            # A part without content is followed by the delimiter at once, and its line end is the one above.
            self._rest[:0], self._at = b"\r\n", self._at - 2
        return True

    def _take(self, count: int) -> None:
        del self._rest[:count]
        self._at += count


def _is_model(headers: bytes) -> bool:
    disposition = _DISPOSITION.search(headers.replace(b"\r\n", b"\n"))
    if disposition is None or _FILE.search(disposition[1]):
        return False
    name = _NAME.search(disposition[1])
    return name is not None and (name[1] or name[2] or b"") == FIELD.encode()
