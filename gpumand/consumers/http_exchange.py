"""HTTP client for consumers, based on aiohttp.

This is the only module that imports aiohttp's client, and it is imported on first use: aiohttp costs 130 ms and 12 MB,
which a host without HTTP routes does not need to spend.

A consumer is untrusted. Whatever it answers, it can use only its own connections, for the timeout of its route, and
``BODY_BYTES`` of memory per answer. The client does not follow redirects, keeps no cookies and takes no proxies from
the environment. It does not decompress answers either, because a small compressed answer could expand to a huge one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from yarl import URL

from gpumand.consumers.answer_events import STREAM_TYPES
from gpumand.consumers.answers import Answer, NoAnswer, excerpt
from gpumand.consumers.certificates import Certificates
from gpumand.consumers.http_request import Request
from gpumand.version import VERSION

log = logging.getLogger(__name__)

BODY_BYTES = 512 * 1024
"""How much of an answer is kept. The list of models of a server with many models takes more than 64 KiB."""

TAIL_BYTES = 64 * 1024
"""How much of the end of a longer stream is kept."""

CHUNK_BYTES = 64 * 1024

STREAM_BYTES = 64 * 1024 * 1024
"""How much of a stream is read. A load reports its progress in far less."""

CONNECTIONS_PER_CONSUMER = 4
"""Simultaneous connections to one consumer, enough for load, unload and probes. More would mean that it hangs."""

CONNECT_SEC = 5.0
"""Timeout of connecting. A local service accepts a connection at once unless its accept queue is full."""

KEEPALIVE_SEC = 1.5
"""How long an idle connection is kept. It is shorter than the servers' own limits (gunicorn 2 s, uvicorn and node 5 s),
so that a request is not sent over a connection that the server is closing."""

_HEADERS = {"User-Agent": f"gpumand/{VERSION}", "Accept": "application/json, */*", "Accept-Encoding": "identity"}


_ERROR_MESSAGES: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ServerDisconnectedError, "closed the connection without an answer"),
    (aiohttp.ClientPayloadError, "the answer ended early"),
    (aiohttp.ClientResponseError, "did not answer in HTTP: {}"),
    (aiohttp.InvalidURL, "not a usable URL: {}"),
    (OSError, "the connection failed: {}"),
    (Exception, "the request failed: {}"),
)


@dataclass(slots=True)
class _Progress:
    """Progress of a request, for the message when it times out or breaks off."""

    stage: str = "earlier requests are still unanswered after"
    body: _Body | None = None

    def last_line(self) -> str:
        """Return the last line received so far, as the end of a message; "" without one."""
        end = bytes(self.body.end()).strip() if self.body else b""
        line = excerpt(end[max(end.rfind(b"\n"), end.rfind(b"\r")) + 1 :])
        return f"; its last line was {line}" if line else ""


class _Body:
    """What is kept of an answer while it arrives: its beginning and its end."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.size = 0
        self._rest = bytearray()

    def add(self, chunk: bytes) -> None:
        """Keep the next part of the answer, as far as there is room."""
        room = BODY_BYTES - len(self.head)
        self.size += len(chunk)
        self.head += chunk[:room]
        self._rest += chunk[room:]
        del self._rest[:-TAIL_BYTES]

    def is_cut(self) -> bool:
        """Whether the answer is longer than its kept beginning."""
        return self.size > len(self.head)

    def end(self) -> bytes:
        """Return the last bytes received so far."""
        return bytes((self.head[-TAIL_BYTES:] + self._rest)[-TAIL_BYTES:])


class Exchange:
    """HTTP client that limits the connections of each consumer. Create it inside a running event loop."""

    def __init__(self) -> None:
        # The connector has no limit. Each consumer has its own, so that one that hangs does not block the others.
        self._session = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SEC))
        self._socket_sessions: set[aiohttp.ClientSession] = set()
        self._certificates = Certificates()
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = (
            WeakValueDictionary()
        )  # requests in progress hold the references

    async def request(self, request: Request) -> Answer:
        """Send one request and read the answer to its end, or to the limit.

        Raises:
            NoAnswer: no complete answer arrived, for whatever reason.
        """
        progress = _Progress()
        try:
            async with asyncio.timeout(request.timeout_sec), self._slots_of(request.consumer):
                return await self._send(request, progress)
        except aiohttp.ServerTimeoutError:
            raise NoAnswer(f"no connection within {CONNECT_SEC:g} s") from None
        except TimeoutError:
            raise NoAnswer(f"{progress.stage} {request.timeout_sec:g} s{progress.last_line()}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = _describe_error(error) + progress.last_line()
            raise NoAnswer(message, refused=_is_refusal(error)) from None
        except Exception as error:
            # aiohttp's parser can raise exceptions of any type for malformed bytes. The failure still is the
            # consumer's; the log has the traceback for a bug report.
            log.exception("%s: HTTP request failed unexpectedly", request.consumer)
            raise NoAnswer(f"the request failed with {type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._session, *self._socket_sessions):
            await session.close()
        await asyncio.sleep(0)  # aiohttp closes its transports only in the next iteration of the event loop

    def _slots_of(self, name: str) -> asyncio.Semaphore:
        consumer = self._slots.get(name)
        if consumer is None:
            consumer = self._slots[name] = asyncio.Semaphore(CONNECTIONS_PER_CONSUMER)
        return consumer

    @asynccontextmanager
    async def _session_for(self, request: Request) -> AsyncIterator[aiohttp.ClientSession]:
        """Provide the common session, or one for a Unix socket, which lasts only for the request."""
        # A session of aiohttp has one connector, and a Unix connector has one path. Connecting to a socket of this host
        # costs little, so that no connection is kept.
        if not request.socket:
            yield self._session
            return
        session = _session(aiohttp.UnixConnector(request.socket, force_close=True))
        self._socket_sessions.add(session)
        try:
            yield session
        finally:
            self._socket_sessions.discard(session)
            await session.close()

    async def _send(self, request: Request, progress: _Progress) -> Answer:
        progress.stage = "no answer within"
        # aiohttp names the type of a body that is not there, which some servers refuse with status 415.
        skipped = ("Content-Type",) if request.json is None else ()
        tls = await self._certificates.context_for(request.url)
        async with (
            self._session_for(request) as session,
            session.request(
                request.method,
                URL(request.url),
                json=request.json,
                headers=dict(request.headers),
                skip_auto_headers=skipped,
                allow_redirects=False,
                ssl=tls,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC),
            ) as response,
        ):
            progress.stage = f"answered {response.status}, but the answer did not end within"
            progress.body = body = _Body()
            is_ended = await _read(response, body, request.reads_to_end or response.content_type in STREAM_TYPES)
            location = response.headers.get("Location", "")
            tail = body.end() if is_ended and body.is_cut() else b""
            return Answer(response.status, response.reason or "", location, bytes(body.head), body.is_cut(), tail)


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers=_HEADERS,
    )


async def _read(response: aiohttp.ClientResponse, body: _Body, reads_to_end: bool) -> bool:
    """Read a body up to a limit; return whether that was its end."""
    limit = STREAM_BYTES if reads_to_end else BODY_BYTES
    while chunk := await response.content.read(CHUNK_BYTES):
        body.add(chunk)
        if body.size > limit:
            # The unread rest of the body makes the connection unusable for another request.
            response.close()
            return False
    return True


def _is_refusal(error: Exception) -> bool:
    """Whether nothing listens at the address; a Unix socket that does not exist is the same."""
    missing = (errno.ECONNREFUSED, errno.ENOENT) if isinstance(error, UnixClientConnectorError) else ()
    return isinstance(error, OSError) and _errno(error) in (errno.ECONNREFUSED, *missing)


def _describe_error(error: Exception) -> str:
    """Return a one-line message for an exception of aiohttp."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _describe_connection_error(error)
    detail = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)
    message = next(message for error_type, message in _ERROR_MESSAGES if isinstance(error, error_type))
    return message.format(_one_line(str(detail or error)) or type(error).__name__)


def _describe_connection_error(error: aiohttp.ClientConnectorError) -> str:
    cause = getattr(error, "os_error", None) or error
    if isinstance(error, UnixClientConnectorError):
        return _describe_socket_error(error.path, cause)
    endpoint = f"{error.host}:{error.port}"
    if isinstance(error, aiohttp.ClientSSLError) or isinstance(cause, ssl.SSLError | ssl.CertificateError):
        tls_error = getattr(error, "certificate_error", None) or cause
        return f"TLS handshake with {endpoint} failed: {_one_line(str(tls_error))}"
    if isinstance(cause, socket.gaierror) or type(error).__name__ == "ClientConnectorDNSError":
        return f"host name {error.host!r} cannot be resolved: {_one_line(cause.strerror or str(cause))}"
    if _errno(error) == errno.ECONNREFUSED:
        return f"nothing listens on {endpoint} (connection refused)"
    if _errno(error) in (errno.EPERM, errno.EACCES):
        return f"connecting to {endpoint} is not permitted: check IPAddressAllow= of gpumand.service"
    return f"connecting to {endpoint} failed: {_one_line(cause.strerror or str(cause))}"


def _describe_socket_error(path: str, cause: OSError) -> str:
    if cause.errno == errno.ENOENT:
        return f"there is no socket {path}"
    if cause.errno == errno.ECONNREFUSED:
        return f"nothing listens on the socket {path} (connection refused)"
    if cause.errno in (errno.EPERM, errno.EACCES):
        return f"connecting to the socket {path} is not permitted: the user that gpumand runs as needs access to it"
    return f"connecting to the socket {path} failed: {_one_line(cause.strerror or str(cause))}"


def _errno(error: OSError) -> int | None:
    cause = getattr(error, "os_error", None)
    return cause.errno if isinstance(cause, OSError) else error.errno


def _one_line(text: str, length: int = 200) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:length]
