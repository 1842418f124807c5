"""The body that a client sends over its connection: its framing is checked before aiohttp parses it."""

from __future__ import annotations

from aiohttp import StreamReader

from gpumand.gateway.chunk_framing import ChunkFraming


class BadBody(TimeoutError):
    """The framing of a body is invalid.

    aiohttp reads the rest of a body after the answer. Of the errors that this raises, all its versions expect only the
    end of the time for it; any other one would be logged as a fault of the gateway.
    """

    def __init__(self) -> None:
        super().__init__("the body is not validly encoded in chunks")


class IncomingBody:
    """The body of the current request of a connection.

    Attributes:
        is_broken: whether its framing is invalid.
        has_surplus: whether more has arrived than this request: the next one, or a part of it.
    """

    def __init__(self) -> None:
        self.is_broken = self.has_surplus = False
        self._left = 0
        self._framing: ChunkFraming | None = None
        self._content: StreamReader | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the body has arrived to its end."""
        return self._framing is None and not (self._left or self.is_broken)

    def begin(self, length: int | None) -> None:
        """The head of a request has arrived; a length of None = the body is chunked."""
        self._content, self.has_surplus = None, False
        self._framing, self._left = (ChunkFraming(), 0) if length is None else (None, length)

    def attach(self, content: StreamReader) -> None:
        """The body is read from this stream."""
        self._content = content
        self.report()

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the connection; returns those that aiohttp may parse."""
        if self.is_broken:
            return b""
        if self._framing is None:
            # Some clients end a body with an empty line, which belongs to no request.
            self.has_surplus = self.has_surplus or bool(data[self._left :].strip(b"\r\n"))
            self._left = max(0, self._left - len(data))
            return data
        valid = self._framing.feed(data)
        self.is_broken = self._framing.is_broken
        if self._framing.is_complete:
            self.has_surplus = bool(self._framing.rest.strip(b"\r\n"))
            self._framing = None
        return valid

    def report(self) -> None:
        """Let reads of a broken body fail, after its valid part was parsed."""
        if self.is_broken and self._content is not None:
            self._content.set_exception(BadBody())
