"""HTTP client that writes and reads raw bytes, so that a test can send invalid requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

Address = str | tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
DEADLINE_SEC = 20.0


@dataclass(frozen=True)
class Answer:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def connect(address: Address) -> Streams:
    """Connect to a Unix socket, or to an address and a port."""
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


async def exchange(address: Address, sent: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes over a new connection and read until its end."""
    async with asyncio.timeout(DEADLINE_SEC):
        reader, writer = await connect(address)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
                if half_close:
                    writer.write_eof()
            return await read_to_end(reader)
        finally:
            await close(writer)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the connection is closed or aborted."""
    read = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            read += data
    return bytes(read)


async def refused(address: Address) -> bool:
    """Whether connections are refused, since nothing listens."""
    try:
        _, writer = await connect(address)
    except ConnectionRefusedError:
        return True
    await close(writer)
    return False


async def close(writer: asyncio.StreamWriter) -> None:
    """Close the connection."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def answer_of(read: bytes) -> Answer:
    """Parse a response."""
    head, separator, body = read.partition(b"\r\n\r\n")
    assert separator, f"no answer: {read[:200]!r}"
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version.startswith("HTTP/")  # the version is that of the request
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(status), {name.lower(): value for name, value in pairs}, body)


def request(path: str, method: str = "GET", *headers: str) -> bytes:
    """Return the bytes of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


async def ask(address: Address, path: str, method: str = "GET", *headers: str) -> Answer:
    """Send a valid request and return the response."""
    return answer_of(await exchange(address, request(path, method, *headers)))


class Events:
    """A reader of ``/v1/events``, over HTTP/1.0, so that nothing is chunked."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def comment(self) -> str:
        """Return the next comment. Raises AssertionError if an event comes first."""
        block = await self._block()
        assert block.startswith(b":"), block
        return block.decode()

    async def next(self) -> tuple[str, Any]:
        """Return the name and the fields of the next event."""
        while (block := await self._block()).startswith(b":"):
            pass
        name, data = block.decode("ascii").split("\n")
        assert name.startswith("event: "), name
        assert data.startswith("data: "), data
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def ended(self) -> None:
        """Wait for the end of the stream."""
        async with asyncio.timeout(DEADLINE_SEC):
            await read_to_end(self._reader)

    async def _block(self) -> bytes:
        async with asyncio.timeout(DEADLINE_SEC):
            return (await self._reader.readuntil(b"\n\n"))[:-2]


@contextlib.asynccontextmanager
async def following(address: Address) -> AsyncIterator[Events]:
    """Open an event stream; it is entered when the server sends events."""
    reader, writer = await connect(address)
    try:
        writer.write(b"GET /v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head = answer_of(await reader.readuntil(b"\r\n\r\n"))
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        events = Events(reader)
        await events.comment()
        yield events
    finally:
        await close(writer)
