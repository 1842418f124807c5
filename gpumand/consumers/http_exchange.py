"""HTTP client for consumers, based on aiohttp.

This is the only module that imports aiohttp's client, and it is imported on first use: aiohttp costs 130 ms and 12 MB,
which a host without HTTP routes does not need to spend.

A consumer is untrusted. Whatever it answers, it can use only its own connections, for the timeout of its route, and
64 KiB per answer. The client does not follow redirects, keeps no cookies and takes no proxies from the environment. It
does not decompress answers either, because a small compressed answer could expand to a huge one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from gpumand.consumers.answers import Answer, NoAnswer
from gpumand.version import VERSION

log = logging.getLogger(__name__)

BODY_BYTES = 64 * 1024

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
    """Progress of a request, for the message when it times out."""

    stage: str = "earlier requests are still unanswered after"


class Exchange:
    """HTTP client that limits the connections of each consumer. Create it inside a running event loop."""

    def __init__(self) -> None:
        # The connector has no limit. Each consumer has its own, so that one that hangs does not block the others.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SEC)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=_HEADERS,
        )
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = (
            WeakValueDictionary()
        )  # requests in progress hold the references

    async def request(
        self, consumer: str, method: str, url: str, json: Any, headers: Iterable[tuple[str, str]], timeout_sec: float
    ) -> Answer:
        """Send one request and read the answer to its end, or to ``BODY_BYTES``.

        Args:
            consumer: name of the consumer; its requests share ``CONNECTIONS_PER_CONSUMER`` connections.
            method: HTTP method.
            url: absolute URL, http or https.
            json: request body, or None for no body.
            headers: additional headers; they replace default headers of the same name.
            timeout_sec: seconds from waiting for a connection to the last byte of the answer.

        Raises:
            NoAnswer: no complete answer arrived, for whatever reason.
        """
        progress = _Progress()
        try:
            async with asyncio.timeout(timeout_sec), self._slots_of(consumer):
                return await self._send(method, URL(url), json, dict(headers), progress)
        except aiohttp.ServerTimeoutError:
            raise NoAnswer(f"no connection within {CONNECT_SEC:g} s") from None
        except TimeoutError:
            raise NoAnswer(f"{progress.stage} {timeout_sec:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(_describe_error(error), refused=_is_refusal(error)) from None
        except Exception as error:
            # aiohttp's parser can raise exceptions of any type for malformed bytes. The failure still is the
            # consumer's; the log has the traceback for a bug report.
            log.exception("%s: HTTP request failed unexpectedly", consumer)
            raise NoAnswer(f"the request failed with {type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await asyncio.sleep(0)  # aiohttp closes its transports only in the next iteration of the event loop

    def _slots_of(self, name: str) -> asyncio.Semaphore:
        consumer = self._slots.get(name)
        if consumer is None:
            consumer = self._slots[name] = asyncio.Semaphore(CONNECTIONS_PER_CONSUMER)
        return consumer

    async def _send(self, method: str, url: URL, json: Any, headers: Mapping[str, str], progress: _Progress) -> Answer:
        progress.stage = "no answer within"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC)
        request = self._session.request(method, url, json=json, headers=headers, allow_redirects=False, timeout=timeout)
        async with request as response:
            progress.stage = f"answered {response.status}, but the answer did not end within"
            body, is_cut = await _read(response)
            location = response.headers.get("Location", "")
            return Answer(response.status, response.reason or "", location, body, is_cut)


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """Read the body up to BODY_BYTES; return it and whether it was cut off."""
    chunks: list[bytes] = []
    room = BODY_BYTES
    while room > 0:
        chunk = await response.content.read(room)
        if not chunk:
            return b"".join(chunks), False
        chunks.append(chunk)
        room -= len(chunk)
    is_cut = bool(await response.content.read(1))
    if is_cut:
        # The unread rest of the body makes the connection unusable for another request.
        response.close()
    return b"".join(chunks), is_cut


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, OSError) and _errno(error) == errno.ECONNREFUSED


def _describe_error(error: Exception) -> str:
    """Return a one-line message for an exception of aiohttp."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _describe_connection_error(error)
    detail = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)
    message = next(message for error_type, message in _ERROR_MESSAGES if isinstance(error, error_type))
    return message.format(_one_line(str(detail or error)) or type(error).__name__)


def _describe_connection_error(error: aiohttp.ClientConnectorError) -> str:
    endpoint = f"{error.host}:{error.port}"
    cause = getattr(error, "os_error", None) or error
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


def _errno(error: OSError) -> int | None:
    cause = getattr(error, "os_error", None)
    return cause.errno if isinstance(cause, OSError) else error.errno


def _one_line(text: str, length: int = 200) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:length]
