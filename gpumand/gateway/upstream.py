"""HTTP connections to consumers: one client for TCP, one for each Unix socket.

The address is the endpoint that gpumand names, and nothing else: redirects are not followed, and proxies of the
environment are ignored.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from gpumand.consumers.certificates import Certificates
from gpumand.domain.socket_url import split_socket_url
from gpumand.gateway.handshakes import HandshakeResponse, OpenSocket
from gpumand.gateway.refusals import NotDelivered, Refusal, Refused, refused

CONNECT_SEC = 5.0
"""Timeout of connecting. A local service accepts a connection at once unless its accept queue is full."""

KEEPALIVE_SEC = 1.5
"""How long an idle connection is kept. It is shorter than the servers' own limits (gunicorn 2 s, uvicorn and node 5 s),
so that a request is not sent over a connection that the server is closing."""

MAX_SOCKETS = 128
"""Maximum number of clients for Unix sockets; a socket has up to two."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Maximum size of a message of a WebSocket: aiohttp passes whole messages only, which are in memory meanwhile."""

READ_BYTES = 64 * 1024

_HEAD_LIMITS: dict[str, Any] = {
    name: limit
    for name, limit in (("max_line_size", 64 * 1024), ("max_field_size", 64 * 1024), ("max_headers", 512))
    if name in inspect.signature(aiohttp.ClientSession).parameters
}
"""Limits of the heads of answers, as in browsers. Debian 12's aiohttp has only its own, which are lower."""

INVALID_ANSWER = "The service did not answer in valid HTTP. Check its log."

_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add; only those of the client are sent."""


class UpstreamDown(Exception):
    """No server accepts connections at the endpoint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a consumer is reached.

    Attributes:
        base: URL without a trailing slash, to which the target of a request is appended.
        origin: scheme and authority of ``base``.
        socket: path of its Unix socket; "" for TCP.
    """

    base: str
    origin: str
    socket: str = ""


def endpoint_of(consumer: str, url: str) -> Endpoint:
    """The endpoint of a consumer, from the URL that gpumand names. Raises Refused without a usable one."""
    if (found := split_socket_url(url)) is not None:
        return Endpoint(f"http://localhost{found[1]}", "http://localhost", found[0])
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        text = (
            f"{consumer} has no url, so requests cannot be passed on. Set url in its table of gpumand's configuration."
        )
        raise refused(502, "no_endpoint", text)
    return Endpoint(url.rstrip("/"), f"{parts.scheme}://{parts.netloc}")


class Upstreams:
    """The HTTP clients. Create it inside a running event loop."""

    def __init__(self) -> None:
        self._tcp = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SEC))
        self._uploads = _session(aiohttp.TCPConnector(limit=0, force_close=True))
        self._sockets: OrderedDict[tuple[str, bool], aiohttp.ClientSession] = OrderedDict()
        self._certificates = Certificates()
        self._closing: set[asyncio.Task[None]] = set()

    async def request(
        self, endpoint: Endpoint, method: str, target: str, headers: Mapping[str, str], body: Any
    ) -> aiohttp.ClientResponse:
        """Send a request and return when the head of the answer is there; the caller closes the answer.

        Raises:
            UpstreamDown: the connection was refused.
            NotDelivered: there was no connection for another reason, such as a failed TLS handshake.
            Refused: there is no answer for another reason.
        """
        try:
            answer = await self._session_for(endpoint, is_streamed=_is_streamed(body)).request(
                method,
                URL(endpoint.base + target, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                skip_auto_headers=_SKIPPED,
                ssl=await self._certificates.context_for(endpoint.base),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC),
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error) from None
        if answer.status < 200:
            # 101: no upgrade was asked for, and the client would take it for the head of another protocol.
            answer.close()
            raise refused(502, "bad_gateway", INVALID_ANSWER, 1)
        return answer

    async def connect_websocket(
        self, endpoint: Endpoint, target: str, headers: Mapping[str, str], protocols: tuple[str, ...]
    ) -> OpenSocket:
        """Open a WebSocket to a consumer; the errors are those of ``request``, and HandshakeRefused."""
        try:
            opened = await self._session_for(endpoint).ws_connect(
                URL(endpoint.base + target, encoded=True),
                headers=headers,
                protocols=protocols,
                autoclose=False,
                autoping=False,
                compress=0,
                ssl=await self._certificates.context_for(endpoint.base),
                max_msg_size=MAX_MESSAGE_BYTES,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error) from None
        return cast(OpenSocket, opened)

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._tcp, self._uploads, *self._sockets.values()):
            await session.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _session_for(self, endpoint: Endpoint, *, is_streamed: bool = False) -> aiohttp.ClientSession:
        """The client for an endpoint.

        A server may answer before it has read the whole body. Debian 12's aiohttp would use the connection again, and
        the server would take the next request for the rest of that body.
        """
        if not endpoint.socket:
            return self._uploads if is_streamed else self._tcp
        key = endpoint.socket, is_streamed
        session = self._sockets.get(key)
        if session is None:
            session = self._sockets[key] = _session(_unix_connector(endpoint.socket, is_streamed))
        self._sockets.move_to_end(key)
        if len(self._sockets) > MAX_SOCKETS:
            _, oldest = self._sockets.popitem(last=False)
            task = asyncio.ensure_future(oldest.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return session


def _is_streamed(body: Any) -> bool:
    """Whether a body is sent in parts, so that an answer may arrive before its end."""
    return body is not None and not isinstance(body, bytes)


def _unix_connector(path: str, is_streamed: bool) -> aiohttp.BaseConnector:
    if is_streamed:
        return aiohttp.UnixConnector(path, limit=0, force_close=True)
    return aiohttp.UnixConnector(path, limit=0, keepalive_timeout=KEEPALIVE_SEC)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        response_class=HandshakeResponse,
        ws_response_class=OpenSocket,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_BYTES,
        **_HEAD_LIMITS,
    )


def _failure(error: Exception) -> Exception:
    """The exception for a request without an answer."""
    if isinstance(error.__cause__, Refused):
        # The body could not be read from the client, which says nothing about the server.
        return error.__cause__
    cause = getattr(error, "os_error", error)
    is_tls = isinstance(error, aiohttp.ClientSSLError) or isinstance(cause, ssl.SSLError)
    if isinstance(error, aiohttp.ClientConnectorError) and not is_tls and isinstance(cause, OSError):
        return UpstreamDown()
    if isinstance(error, aiohttp.ServerTimeoutError | TimeoutError):
        return UpstreamDown()
    text = "The service closed the connection without an answer. Check its log."
    # aiohttp's error of a connection that was reset is an OSError, but no ConnectionError.
    is_reset = getattr(error, "errno", None) in (errno.ECONNRESET, errno.EPIPE)
    if not is_reset and not isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        text = INVALID_ANSWER
    if is_tls:
        text = "The TLS handshake failed: this host does not trust the certificate of the service, or it speaks no TLS."
    if isinstance(error, aiohttp.ClientConnectorError):
        return NotDelivered(Refusal(502, "bad_gateway", text, 1))
    return refused(502, "bad_gateway", text, 1)
