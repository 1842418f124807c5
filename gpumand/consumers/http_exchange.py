"""One HTTP exchange with a consumer, by aiohttp: the only module that imports its client, itself imported late.

(aiohttp costs 130 ms and 12 MB; a host whose consumers are plain units never pays.)

A consumer may answer whatever it likes, or nothing: what it can use up is its own connection, for the time its route
allows, and 64 KiB for the answer. Redirects are not followed, cookies not kept, proxies not taken from the
environment, and nothing is decompressed, so that a small answer is not a large one.
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

LANE_CONNECTIONS = 4
"""A consumer's load, unload and probes; more at once means that it hangs."""

CONNECT_SEC = 5.0
"""A local service accepts at once, or its accept queue is full."""

KEEPALIVE_SEC = 1.5
"""Shorter than what servers grant (gunicorn 2 s, uvicorn and node 5 s): a request must not meet a closing socket."""

_HEADERS = {"User-Agent": f"gpumand/{VERSION}", "Accept": "application/json, */*", "Accept-Encoding": "identity"}


_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ServerDisconnectedError, "closed the connection without an answer"),
    (aiohttp.ClientPayloadError, "the answer broke off"),
    (aiohttp.ClientResponseError, "did not answer in HTTP: {}"),
    (aiohttp.InvalidURL, "not a usable URL: {}"),
    (OSError, "the connection broke: {}"),
    (Exception, "the exchange failed: {}"),
)


@dataclass(slots=True)
class _Progress:
    """How far an exchange has come, for the message when its time is up."""

    stage: str = "the requests before it are still unanswered after"


class Exchange:
    """HTTP exchanges that share one pool of connections. To be made inside a running event loop."""

    def __init__(self) -> None:
        # No limit here: each lane has its own, so that a consumer that hangs takes no connection from another.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SEC)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=_HEADERS,
        )
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # kept alive by their users

    async def ask(
        self, lane: str, method: str, url: str, json: Any, headers: Iterable[tuple[str, str]], timeout_sec: float
    ) -> Answer:
        """Send one request and read the answer to its end, or to ``BODY_BYTES``.

        Args:
            lane: requests with the same one share ``LANE_CONNECTIONS`` connections, and wait for each other.
            method: HTTP verb.
            url: absolute, http or https.
            json: body, or None for none.
            headers: extra ones; they replace ours of the same name.
            timeout_sec: for all of it, from waiting for a connection to the last byte.

        Raises:
            NoAnswer: for whatever kept the answer from coming whole.
        """
        progress = _Progress()
        try:
            async with asyncio.timeout(timeout_sec), self._lane(lane):
                return await self._ask(method, URL(url), json, dict(headers), progress)
        except aiohttp.ServerTimeoutError:
            raise NoAnswer(f"no connection within {CONNECT_SEC:g} s") from None
        except TimeoutError:
            raise NoAnswer(f"{progress.stage} {timeout_sec:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(_why(error), refused=_is_refusal(error)) from None
        except Exception as error:
            # What a parser for hostile bytes may raise is not for us to list. It is the consumer's failure all the
            # same; the log keeps what a bug report needs.
            log.exception("unexpected failure of an HTTP exchange with %s", lane)
            raise NoAnswer(f"the exchange failed with {type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def _lane(self, name: str) -> asyncio.Semaphore:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = asyncio.Semaphore(LANE_CONNECTIONS)
        return lane

    async def _ask(self, method: str, url: URL, json: Any, headers: Mapping[str, str], progress: _Progress) -> Answer:
        progress.stage = "no answer within"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC)
        request = self._session.request(method, url, json=json, headers=headers, allow_redirects=False, timeout=timeout)
        async with request as response:
            progress.stage = f"answered {response.status}, but the answer did not end within"
            body, is_cut = await _read(response)
            location = response.headers.get("Location", "")
            return Answer(response.status, response.reason or "", location, body, is_cut)


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """The body, and whether it was cut off; what is left unread costs the connection."""
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
        response.close()
    return b"".join(chunks), is_cut


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, OSError) and _errno(error) == errno.ECONNREFUSED


def _why(error: Exception) -> str:
    """In words that say what to look at."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _why_not_connected(error)
    detail = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)
    words = next(words for kind, words in _WORDS if isinstance(error, kind))
    return words.format(_line(str(detail or error)) or type(error).__name__)


def _why_not_connected(error: aiohttp.ClientConnectorError) -> str:
    where = f"{error.host}:{error.port}"
    cause = getattr(error, "os_error", None) or error
    if isinstance(error, aiohttp.ClientSSLError) or isinstance(cause, ssl.SSLError | ssl.CertificateError):
        return f"no TLS with {where}: {_line(str(getattr(error, 'certificate_error', None) or cause))}"
    if isinstance(cause, socket.gaierror) or type(error).__name__ == "ClientConnectorDNSError":
        return f"the name {error.host!r} cannot be resolved: {_line(cause.strerror or str(cause))}"
    if _errno(error) == errno.ECONNREFUSED:
        return f"nothing listens on {where} (connection refused)"
    if _errno(error) in (errno.EPERM, errno.EACCES):
        return f"connecting to {where} is not permitted (IPAddressAllow= of gpumand.service?)"
    return f"no connection to {where}: {_line(cause.strerror or str(cause))}"


def _errno(error: OSError) -> int | None:
    cause = getattr(error, "os_error", None)
    return cause.errno if isinstance(cause, OSError) else error.errno


def _line(text: str, length: int = 200) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:length]
