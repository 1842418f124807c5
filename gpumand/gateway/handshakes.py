"""What aiohttp's client does not hand over of the handshake of a WebSocket: the whole answer of the server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp

MAX_BODY_BYTES = 64 * 1024
"""How much of the body of a refusal is passed on."""

BODY_SEC = 5.0

RawHeaders = tuple[tuple[bytes, bytes], ...]


class HandshakeRefused(Exception):
    """A server has answered a handshake without opening a WebSocket.

    Attributes:
        status, reason: its status.
        headers: its headers as received.
        body: the beginning of its body.
    """

    def __init__(self, status: int, reason: str, headers: RawHeaders, body: bytes) -> None:
        super().__init__(f"the handshake was answered {status}")
        self.status, self.reason, self.headers, self.body = status, reason, headers, body


class HandshakeResponse(aiohttp.ClientResponse):
    """An answer that is read before aiohttp closes it, if it refuses a handshake. A redirect is such a refusal too."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Wait for the head of the answer. Raises HandshakeRefused."""
        await super().start(connection)
        # Only handshakes have this header, which is removed from all other requests.
        if "Upgrade" in self.request_info.headers and self.status != 101:
            raise HandshakeRefused(self.status, self.reason or "", self.raw_headers, await _beginning(self.content))
        return self


class OpenSocket(aiohttp.ClientWebSocketResponse):
    """A WebSocket that keeps the headers of its handshake.

    Attributes:
        head: the headers of the server's answer as received.
    """

    def __init__(self, reader: Any, writer: Any, protocol: str | None, response: Any, *rest: Any, **more: Any) -> None:
        super().__init__(reader, writer, protocol, response, *rest, **more)
        self.head: RawHeaders = response.raw_headers


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """The body, or as much of it as fits and arrives in time."""
    text = bytearray()
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(BODY_SEC):
            while len(text) < MAX_BODY_BYTES and (chunk := await content.read(MAX_BODY_BYTES - len(text))):
                text += chunk
    return bytes(text)
