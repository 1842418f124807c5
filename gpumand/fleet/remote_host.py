"""Another host, behind its agent: one HTTP connection for each lease, with signs of life in both directions."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from gpumand.domain.errors import GpumandError
from gpumand.fleet.answers import MAX_ANSWER_BYTES, parse_answer, parse_end, parse_grant
from gpumand.fleet.calls import MAX_BODY_BYTES, AcquireCall, DrainCall, LoadCall, PlanCall, dump_line
from gpumand.fleet.errors import HostLost, error_of
from gpumand.fleet.http_server import LOST_SEC, limit_silence
from gpumand.fleet.lease_streams import BEAT, BEAT_SEC, RELEASE
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.tls import explained, why_disconnected

log = logging.getLogger(__name__)

CONNECT_SEC = 1.5
"""Long enough for a second attempt of the kernel, which follows after a second."""

ANSWER_SEC = 4.0
"""From the request to the head of the answer, which an agent sends within half a second even if the request waits."""

PLAN_SEC = 1.0
DRAIN_SEC = 5.0
MAX_OUTCOME_BYTES = 128 * 1024
"""Size of a plan or of the outcome of a call. A client gets the plans of all hosts at once."""

HOST_LOST = "host-lost"
"""Why a lease ended whose host gave no sign of life; the host ends it as well."""


class AgentClient:
    """The connections to all agents. Create it inside a running event loop.

    Args:
        tls: context with the client certificate for https URLs; None = only http.
        files: the certificates that the context was made of, to find out why a host refuses them.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, files: TlsFiles | None = None) -> None:
        self._files = files
        # No limit: each lease has a connection of its own.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0) if tls is None else aiohttp.TCPConnector(limit=0, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def host(self, name: str, url: str) -> RemoteHost:
        """The host behind the agent at a URL."""
        return RemoteHost(self._session, name, url.rstrip("/"), self._files)

    async def close(self) -> None:
        """Close all connections, which ends the leases."""
        await self._session.close()


class RemoteHost:
    """A host behind its agent.

    Args:
        session: the connections.
        name: name of the host, for messages.
        url: URL of its agent.
        files: the certificates of this host; None = without TLS.
    """

    def __init__(self, session: aiohttp.ClientSession, name: str, url: str, files: TlsFiles | None = None) -> None:
        self._session, self._name, self._url, self._files = session, name, url, files

    async def acquire(self, call: AcquireCall) -> RemoteLease:
        """See FleetHost."""
        beats = _Beats(dump_line(call.body()))
        try:
            async with asyncio.timeout(ANSWER_SEC):
                response = await self._session.post(
                    f"{self._url}/v1/acquire", data=beats.chunks(), allow_redirects=False
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            beats.close()
            raise await self._lost(error) from None
        except BaseException:
            beats.close()
            raise
        try:
            return await self._granted(response, beats)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            _close(response, beats)
            raise await self._lost(error) from None
        except BaseException:
            _close(response, beats)  # the host sees it, and withdraws the request
            raise

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """See FleetHost."""
        return await self._post("/v1/plan", call.body(), PLAN_SEC)

    async def load(self, call: LoadCall) -> dict[str, Any]:
        """See FleetHost."""
        return await self._post("/v1/load", call.body(), call.wait_sec + LOST_SEC + CONNECT_SEC)

    async def drain(self, call: DrainCall) -> dict[str, Any]:
        """See FleetHost."""
        return await self._post("/v1/drain", call.body(), DRAIN_SEC)

    async def status(self) -> dict[str, Any]:
        """The status of the host's gpumand. Raises GpumandError."""
        return await self._answer("GET", "/v1/status", None, PLAN_SEC, MAX_ANSWER_BYTES)

    async def _post(self, path: str, body: Mapping[str, Any], limit_sec: float) -> dict[str, Any]:
        return await self._answer("POST", path, dump_line(body), limit_sec, MAX_OUTCOME_BYTES)

    async def _answer(
        self, method: str, path: str, data: bytes | None, limit_sec: float, max_bytes: int
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(limit_sec):
                request = self._session.request(method, self._url + path, data=data, allow_redirects=False)
                async with request as response:
                    answer = parse_answer(await _limited(response.content, max_bytes))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise await self._lost(error) from None
        if response.status != 200:
            raise error_of(answer, self._name)
        return answer

    async def _granted(self, response: aiohttp.ClientResponse, beats: _Beats) -> RemoteLease:
        """Read the answer up to the grant."""
        connection = response.connection
        if connection is not None and connection.transport is not None:
            limit_silence(connection.transport)
        line = (
            await _next_line(response) if response.status == 200 else await _limited(response.content, MAX_BODY_BYTES)
        )
        answer = parse_answer(line)
        if response.status != 200 or "error" in answer:
            raise error_of(answer, self._name)
        return RemoteLease(parse_grant(answer), response, beats)

    async def _lost(self, error: Exception) -> GpumandError:
        refusal = explained(error)
        # A server that refuses the certificate of this host closes the connection without a word.
        was_connected = isinstance(error, aiohttp.ClientConnectionError | ConnectionError)
        if self._files is not None and was_connected and not isinstance(error, aiohttp.ClientConnectorError):
            refusal = await why_disconnected(self._url, self._files) or refusal
        words = refusal or ("no answer in time" if isinstance(error, TimeoutError) else _words(error))
        return HostLost(f"{self._name} cannot be reached at {self._url}: {words}", is_refusal=bool(refusal))


class RemoteLease:
    """A lease of another host.

    Attributes:
        grant: the grant, as its agent sent it.
    """

    def __init__(self, grant: dict[str, object], response: aiohttp.ClientResponse, beats: _Beats) -> None:
        self.grant: dict[str, Any] = grant
        self._response, self._beats = response, beats
        self._reading = asyncio.ensure_future(self._read())
        self._releasing: asyncio.Task[None] | None = None

    async def wait_ended(self) -> str:
        """See LeaseHandle; "host-lost" if the host gave no sign of life."""
        return await asyncio.shield(self._reading)

    async def release(self) -> None:
        """See LeaseHandle. It returns when the host has released the lease, or does not answer."""
        if self._releasing is None:
            self._releasing = asyncio.ensure_future(self._release())
        await asyncio.shield(self._releasing)

    async def _release(self) -> None:
        self._beats.release()
        await asyncio.wait({self._reading}, timeout=LOST_SEC)
        self._close()

    async def _read(self) -> str:
        """Read signs of life until the lease ends."""
        try:
            return parse_end(parse_answer(await _next_line(self._response))) or HOST_LOST
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return HOST_LOST
        finally:
            self._close()

    def _close(self) -> None:
        _close(self._response, self._beats)


class _Beats:
    """The body of a request for a lease: the request, then a newline each second until it is released."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._released, self._closed = asyncio.Event(), asyncio.Event()

    def release(self) -> None:
        """Send that the lease is to end."""
        self._released.set()

    def close(self) -> None:
        """The connection was closed: send nothing more."""
        self._released.set()
        self._closed.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body."""
        yield self._first
        while not self._released.is_set():
            try:
                async with asyncio.timeout(BEAT_SEC):
                    await self._released.wait()
            except TimeoutError:
                yield BEAT
        if not self._closed.is_set():
            yield RELEASE
            await self._closed.wait()
        # The body has no end that could be sent: the other side may have closed the connection already.
        raise asyncio.CancelledError


def _close(response: aiohttp.ClientResponse, beats: _Beats) -> None:
    response.close()
    beats.close()


async def _next_line(response: aiohttp.ClientResponse) -> bytes:
    """The next line that is no sign of life. Raises TimeoutError when no sign comes, ValueError at the end."""
    while True:
        try:
            async with asyncio.timeout(LOST_SEC):
                line = await response.content.readline()
        except RuntimeError as error:  # aiohttp's for a response that was closed meanwhile
            raise ValueError(str(error)) from None
        if not line.endswith(b"\n"):
            raise ValueError("the answer ended early")
        if line.strip():
            return line


async def _limited(content: aiohttp.StreamReader, max_bytes: int) -> bytes:
    """The whole body. Raises ValueError if it is too large."""
    data = b""
    while chunk := await content.readany():
        data += chunk
        if len(data) > max_bytes:
            raise ValueError("the answer is too large")
    return data


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
