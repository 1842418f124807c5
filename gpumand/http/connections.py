"""Connections of the HTTP face, and what keeps a slow, broken or hostile one from harming anybody.

aiohttp answers; around each of its protocols stands one of ours that counts bytes and seconds, since aiohttp's own
limits begin with a whole request and differ from version to version.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from aiohttp import web

from gpumand.http.limits import BACKLOG, HURRY_SEC, LIFE_SEC, MAX_CONNECTIONS, MAX_HEAD_BYTES

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
R = TypeVar("R", bound=web.StreamResponse)

_BAD = b"400 Bad Request"
_TOO_LATE = b"408 Request Timeout"
_TOO_LONG = b"431 Request Header Fields Too Large"


def dressed(response: R) -> R:
    """With the headers that every answer has; without the versions that aiohttp would tell. Its connection ends."""
    response.headers["Server"] = "gpumand"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.force_close()
    return response


def plain(status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of one line."""
    return dressed(web.Response(status=status, text=f"{words}\n", headers=dict(headers or {})))


class _Protocol(web.RequestHandler):
    """aiohttp's, which knows its connection, and whose errors say less: to clients and, about garbage, to the log."""

    def __init__(self, connection: Connection, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=cast(Any, None), tcp_keepalive=False, lingering_time=HURRY_SEC)
        self.connection = connection

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what was no request, or what our own handler could not answer."""
        if status >= 500:
            log.error("an HTTP request could not be answered", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun already")
        return plain(status, "no valid HTTP request" if status == 400 else "the request could not be answered")


class Connection(asyncio.Protocol):
    """One connection, which serves one request.

    Args:
        door: where it came in.
        local_names_only: it is over TCP, for this host only.

    Attributes:
        asked: a request has arrived whole.
    """

    def __init__(self, door: Door, *, local_names_only: bool) -> None:
        self.local_names_only = local_names_only
        self.asked = False
        self._door = door
        self._protocol = _Protocol(self, door.server)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._received_bytes = 0
        self._stream_ended: Callable[[], None] | None = None

    @property
    def streaming(self) -> bool:
        """Whether it is an event stream, which may last."""
        return self._stream_ended is not None

    @property
    def peer(self) -> str:
        """Whose it is: the user, or over TCP the address; "" when it is gone."""
        if self._transport is None:
            return ""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return f"uid {struct.unpack('3i', credentials)[1]}"
        return str((self._transport.get_extra_info("peername") or ("",))[0])

    def begin_stream(self, ended: Callable[[], None]) -> None:
        """It is an event stream from now on: it may last, and ``ended`` is called when its client is gone.

        The client may be gone already: a request is answered some turns of the loop after it came.
        """
        self._stream_ended = ended
        self._set_deadline(None)
        if self._transport is None:
            ended()

    def cut(self) -> None:
        """End it at once, whatever is still unsent."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio's side ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._set_deadline(LIFE_SEC)
        self._protocol.connection_made(transport)
        self._door.admit(self)

    def data_received(self, data: bytes) -> None:
        """Hand on so much as a request may have; the rest is read and forgotten, or its sender would not hear us."""
        room = MAX_HEAD_BYTES - self._received_bytes
        self._received_bytes += len(data)
        if room > 0:
            self._parse(data[:room])
        if len(data) > room >= 0:
            self._hurry()

    def _parse(self, data: bytes) -> None:
        """Have aiohttp read it; older versions let some garbage escape as whatever error it led to."""
        try:
            self._protocol.data_received(data)
        except Exception as error:
            log.debug("no HTTP request: %r", error)
            self._end_with(_BAD)

    def eof_received(self) -> bool:
        """Who has closed their end only may still want the answer; a stream is over with it."""
        if self.streaming:
            return False
        self._hurry()
        return True

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self._door.forget(self)
        if self._stream_ended is not None:
            self._stream_ended()
        self._protocol.connection_lost(exc)
        self._transport = None

    # -- limits --------------------------------------------------------------------------------------------------

    def _hurry(self) -> None:
        self._set_deadline(HURRY_SEC)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        """Say why where nothing was said yet; whoever has not taken an answer by now takes this none either."""
        if self.asked or self._transport is None or self._received_bytes == 0:
            self.cut()
            return
        self._end_with(_TOO_LONG if self._received_bytes > MAX_HEAD_BYTES else _TOO_LATE)

    def _end_with(self, status: bytes) -> None:
        """An answer without aiohttp."""
        if self._transport is not None:
            words = b"HTTP/1.1 %s\r\nServer: gpumand\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self._transport.write(words % status)
            self._transport.close()


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection that a request came by."""
    protocol = request.protocol
    assert isinstance(protocol, _Protocol)
    return protocol.connection


class Door:
    """Lets connections in, up to a cap."""

    def __init__(self, handler: Handler) -> None:
        self.server = web.Server(handler)
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    async def open(self, listener: socket.socket) -> asyncio.Server:
        """Accept on a listening socket, which is closed with the server, but neither shut down nor unlinked.

        Never ``create_unix_server``: from Python 3.13 on that one unlinks the path of a socket that it was given.
        """
        local = listener.family != socket.AF_UNIX and ipaddress.ip_address(listener.getsockname()[0]).is_loopback
        loop = asyncio.get_running_loop()
        make = partial(Connection, self, local_names_only=local)
        return await loop.create_server(make, sock=listener, backlog=BACKLOG)

    def admit(self, connection: Connection) -> None:
        """Take it in. Where too many are here already, the oldest that is no stream goes: it has had most time.

        So connections that only idle keep nobody out, and streams are fewer than the cap, so that there is one to go.
        """
        self._connections[connection] = None
        if len(self._connections) > MAX_CONNECTIONS:
            next(one for one in self._connections if not one.streaming).cut()

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        self._connections.pop(connection, None)

    async def close(self, patience_sec: float) -> None:
        """End all connections, those first that finish by themselves in that time."""
        await self.server.shutdown(patience_sec)
        for connection in tuple(self._connections):
            connection.cut()
