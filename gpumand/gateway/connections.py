"""Connections of clients: limits slow, broken or hostile clients, and notices when a client leaves.

aiohttp parses and answers requests. Its protocol is wrapped, because its own limits differ between versions, and
because none of its versions in Debian ends a handler when the client leaves.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from typing import TYPE_CHECKING, Any, cast

from gpumand.gateway import web
from gpumand.gateway.headers import REFUSED_HEADER
from gpumand.gateway.heads import Framing, framing_of, is_valid_head, length_of
from gpumand.gateway.incoming_body import IncomingBody
from gpumand.gateway.socket_state import has_input, has_peer_left, has_unsent
from gpumand.http.peer_name import peer_name

if TYPE_CHECKING:
    from gpumand.gateway.acceptor import Acceptor

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16 * 1024
HEAD_SEC = 10.0
"""Seconds from the first byte of a head, or from connecting, to its end."""

IDLE_SEC = 75.0
"""Seconds that a connection without a request is kept, as in nginx."""

STALL_SEC = 300.0
"""Seconds that a client may stop reading its answer, while its request holds a lease."""

QUIET_SEC = 1.0
"""Seconds after which a client that has connected and sent nothing counts as one that sends no request."""

LINGER_SEC = 2.0
"""Seconds in which the rest of a body is read after a refusal, so that the client can read the answer."""

HALF_CLOSED_SEC = 60.0
"""Seconds that the answer may take to a client that has closed its sending side, which may have left."""

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_TOO_LATE = b"408 Request Timeout"
_TOO_LONG = b"431 Request Header Fields Too Large"
_BAD = b"400 Bad Request"


class _RequestProtocol(web.RequestHandler):
    """aiohttp's protocol with short error responses; invalid requests of clients are not logged."""

    def __init__(self, connection: Connection, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_SEC,
            access_log=cast(Any, None),
            lingering_time=LINGER_SEC,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            auto_decompress=False,
        )
        self.connection = connection

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer an invalid request, or a request whose handler has failed."""
        if status >= 500:
            log.error("a request failed with an internal error", exc_info=exc)
        if request.writer.output_size > 0:
            # A part of the answer was sent: only an end of the connection shows that it is not complete.
            self.connection.abort()
            raise ConnectionError("the answer has already begun")
        text = "invalid HTTP request\n" if status < 500 else "internal error; see the gateway's log\n"
        response = web.Response(status=status, text=text, headers={REFUSED_HEADER: "refused"})
        response.force_close()
        return response


class Connection(asyncio.Protocol):
    """One connection of a client.

    Args:
        acceptor: the acceptor that counts this connection.
        listener: name of the listener that it came in by.
        is_loopback: the listener is a TCP address that only this host can reach.

    Attributes:
        is_gone: whether the client has left.
        is_half_closed: whether the client sends nothing any more, but an answer can still be sent to it.
        body: the body of the current request.
    """

    def __init__(self, acceptor: Acceptor, listener: str, is_loopback: bool) -> None:
        self.listener, self.is_loopback = listener, is_loopback
        self.is_gone = self.is_half_closed = False
        self.body = IncomingBody()
        self._connected_at = asyncio.get_running_loop().time()
        self._has_served = self._has_head = False
        self._is_closing = False
        self._acceptor = acceptor
        self._protocol = _RequestProtocol(self, acceptor.server)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._head: bytearray | None = bytearray()
        self._handling: asyncio.Task[Any] | None = None
        self._request: web.BaseRequest | None = None
        self._needs_client = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is being received or handled."""
        return self._handling is None

    @property
    def is_receiving(self) -> bool:
        """Whether a request is on its way: the client has just connected, or sent a part of a head."""
        is_begun = not self._has_served or self._has_head or bool(self._head)
        return not self.is_gone and self.is_idle and is_begun

    @property
    def is_expendable(self) -> bool:
        """Whether nothing is lost if the connection ends now: no request is on its way, and no answer."""
        own = self._socket
        if not self.is_idle or self._has_head or self._head or own is None or self.holds_answer:
            return False
        if not self._has_served and asyncio.get_running_loop().time() - self._connected_at < QUIET_SEC:
            return False
        # A part of an answer, or a request that was not read yet, may be in the kernel.
        return not (has_unsent(own) or has_input(own))

    @property
    def holds_answer(self) -> bool:
        """Whether the client has not yet received the whole answer to its last request."""
        return self.is_idle and self._transport is not None and self._transport.get_write_buffer_size() > 0

    @property
    def has_queued_requests(self) -> bool:
        """Whether the client has sent further requests, or a part of one, without waiting for an answer.

        Their heads were not checked, so the connection has to end after this request.
        """
        return bool(self._protocol._messages) or self.body.has_surplus

    @property
    def is_unix(self) -> bool:
        """Whether the client is connected to a Unix socket."""
        return self._socket is not None and self._socket.family == socket.AF_UNIX

    @property
    def peer(self) -> str:
        """The client: its address over TCP, its uid on a Unix socket; "" after the connection was lost."""
        return "" if self._transport is None or self._socket is None else peer_name(self._transport)

    @property
    def _socket(self) -> socket.socket | None:
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def begin_request(self, request: web.BaseRequest) -> None:
        """The current task handles a request; it is cancelled when the client leaves."""
        self._handling, self._request, self._needs_client = asyncio.current_task(), request, False
        self._has_served, self._has_head = True, False
        self.body.attach(request.content)
        if self.is_gone and self._handling is not None:
            self._handling.cancel()

    def require_client(self) -> None:
        """The current request is worth its work only while its client is there; its end of input ends it now."""
        self._needs_client = True
        if self.is_half_closed:
            self._leave()

    def end_request(self, *, is_read: bool = True) -> None:
        """The request is handled; the head of the next one is limited again.

        Args:
            is_read: its body has arrived completely. Otherwise the connection ends after the answer, and what arrives
                until then is no head.
        """
        self._handling = self._request = None
        # The input may end between the head of the next request and its handler.
        self._needs_client = False
        self._head = bytearray() if is_read else None

    def abort(self) -> None:
        """Close the connection at once, which shows that an answer is not complete."""
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being received or handled."""
        if self.is_idle and not self.is_receiving and self._transport is not None:
            # Unlike abort(), this first sends the end of an answer that the client has not received yet.
            self._transport.close()

    def check_peer(self) -> None:
        """Notice that the client has left although its body is not being read at the moment."""
        if self._socket is not None and not self.is_gone and has_peer_left(self._socket):
            self._leave()

    # -- methods called by asyncio -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._set_timer(HEAD_SEC)
        self._protocol.connection_made(transport)
        self._acceptor.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        body_at = 0 if self._head is None else self._limit_head(data)
        if body_at is None:
            return
        valid = data[:body_at] + self.body.feed(data[body_at:]) if body_at else self.body.feed(data)
        # Older versions of aiohttp raise exceptions of any type for some invalid requests.
        try:
            if valid:
                self._protocol.data_received(valid)
            self.body.report()
        except Exception as error:
            log.debug("invalid HTTP request: %r", error)
            self._respond_and_close(_BAD)

    def eof_received(self) -> bool:
        is_requested = self._has_head or self._handling is not None
        if not (is_requested and self.body.is_complete) or self._has_begun_answer:
            self._leave()
            return False
        self.is_half_closed = True
        if self._needs_client:
            # The client gets the reason, if it is there.
            self._leave()
        self._set_timer(HALF_CLOSED_SEC)
        return True

    @property
    def _has_begun_answer(self) -> bool:
        return self._request is not None and self._request.writer.output_size > 0

    def pause_writing(self) -> None:
        self._protocol.pause_writing()
        self._stall = asyncio.get_running_loop().call_later(STALL_SEC, self.abort)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        if self._stall is not None:
            self._stall.cancel()
        self._acceptor.remove(self)
        self._leave()
        self._protocol.connection_lost(exc)
        self._transport = None

    # -- limits --------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self.is_gone:
            return
        self.is_gone = True
        if self._handling is not None:
            self._handling.cancel()

    def _limit_head(self, data: bytes) -> int | None:
        """Count the bytes of a head, until its end.

        Returns:
            How many bytes of the data belong to the head, or None if the connection was closed.
        """
        head = self._head
        assert head is not None
        began = not head
        head += data[: MAX_HEAD_BYTES + 4]
        # Empty lines before a request are allowed, and are no end of a head.
        del head[: len(head) - len(head.lstrip(b"\r\n"))]
        if not head:
            return len(data)
        if began and self._timer is None:
            self._set_timer(HEAD_SEC)
        end = _END_OF_HEAD.search(head)
        if len(head) > MAX_HEAD_BYTES and (end is None or end.end() > MAX_HEAD_BYTES):
            self._respond_and_close(_TOO_LONG)
            return None
        if end is None:
            return len(data)
        self._head = None
        self._set_timer(None)
        complete = bytes(head[: end.end()])
        framing = framing_of(complete) if is_valid_head(complete) else Framing.INVALID
        if framing is Framing.INVALID:
            self._respond_and_close(_BAD)
            return None
        self._has_head = True
        self.body.begin(None if framing is Framing.CHUNKED else length_of(complete))
        return len(data) - (len(head) - end.end()) - max(0, len(data) - MAX_HEAD_BYTES - 4)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self._time_out)

    def _time_out(self) -> None:
        """A head, or the answer to a half-closed connection, has taken too long."""
        self._timer = None
        if self._head:
            self._respond_and_close(_TOO_LATE)
        else:
            self.abort()

    def _respond_and_close(self, status: bytes) -> None:
        """Answer without aiohttp, which may be in the middle of parsing, and close the connection."""
        self._is_closing = True
        if self._transport is not None:
            head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self._transport.write(head % status)
            self._transport.write_eof() if self._transport.can_write_eof() else self._transport.close()
            # What the client still sends is read and dropped for a while: unread data would reset the connection, and
            # the client might not receive the answer.
            asyncio.get_running_loop().call_later(LINGER_SEC, self.abort)


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection of a request."""
    protocol = request.protocol
    assert isinstance(protocol, _RequestProtocol)
    return protocol.connection
