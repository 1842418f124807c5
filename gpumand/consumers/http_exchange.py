"""HTTP client for consumers.

It is imported on first use, which a host without HTTP routes does not need to spend. It speaks HTTP/1.1 with h11, since
aiohttp's client would cost 130 ms and 10 MB, a third of the daemon's memory.

A consumer is untrusted. Whatever it answers, it can use only its own connections, for the timeout of its route, and
``BODY_BYTES`` of memory per answer, also where it is compressed. The client does not follow redirects, keeps no cookies
and takes no proxies from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import h11

from gpumand.consumers.answer_events import STREAM_TYPES
from gpumand.consumers.answers import Answer, NoAnswer, excerpt, one_line
from gpumand.consumers.certificates import Certificates
from gpumand.consumers.content_encoding import decompress
from gpumand.consumers.host_names import HostNames
from gpumand.consumers.http_connection import Connection, Disconnected, EndedEarly, Place, connect
from gpumand.consumers.http_head import address_of, head_of
from gpumand.consumers.http_request import Request

log = logging.getLogger(__name__)

BODY_BYTES = 512 * 1024
"""How much of an answer is kept. The list of models of a server with many models takes more than 64 KiB."""

TAIL_BYTES = 64 * 1024
"""How much of the end of a longer stream is kept."""

STREAM_BYTES = 64 * 1024 * 1024
"""How much of a stream is read. A load reports its progress in far less."""

CONNECTIONS_PER_CONSUMER = 4
"""Simultaneous connections to one consumer, enough for load, unload and probes. More would mean that it hangs."""

KEEPALIVE_SEC = 1.5
"""How long an idle connection is kept. It is shorter than the servers' own limits (gunicorn 2 s, uvicorn and node 5 s),
so that a request is not sent over a connection that the server is closing."""

MAX_PARTS = 1_000_000
"""How many parts of an answer are read. A part may have a single byte, and costs as much time as one of many."""

TURN_SEC = 0.01
"""How long an answer is read before the event loop runs something else."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as it is sent: to which server, and its head and body."""

    request: Request
    place: Place
    head: h11.Request
    body: bytes


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
        self._idle: dict[Place, list[tuple[Connection, asyncio.TimerHandle]]] = {}
        self._active: set[Connection] = set()
        self._certificates, self._names = Certificates(), HostNames()
        self._is_closed = False
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = (
            WeakValueDictionary()
        )  # requests in progress hold the references

    async def request(self, request: Request) -> Answer:
        """Send one request and read the answer to its end, or to the limit.

        Raises:
            NoAnswer: no complete answer arrived, for whatever reason.
        """
        self._refuse_if_closed()
        progress = _Progress()
        try:
            async with asyncio.timeout(request.timeout_sec), self._slots_of(request.consumer):
                return await self._send(request, progress)
        except NoAnswer:
            raise
        except TimeoutError:
            raise NoAnswer(f"{progress.stage} {request.timeout_sec:g} s{progress.last_line()}") from None
        except (Disconnected, EndedEarly, h11.ProtocolError, OSError, ValueError) as error:
            raise NoAnswer(_describe_error(error) + progress.last_line()) from None
        except Exception as error:
            # A failure that nothing here expects still is the consumer's; the log has the traceback for a bug report.
            log.exception("%s: HTTP request failed unexpectedly", request.consumer)
            raise NoAnswer(f"the request failed with {type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections; requests in progress fail, and so do later ones."""
        self._is_closed = True
        self._names.close()
        for place in tuple(self._idle):
            for connection, timer in self._idle.pop(place):
                timer.cancel()
                connection.abort()
        for connection in tuple(self._active):
            connection.abort()
        await asyncio.sleep(0)  # transports are closed in the next iteration of the event loop

    def _slots_of(self, name: str) -> asyncio.Semaphore:
        consumer = self._slots.get(name)
        if consumer is None:
            consumer = self._slots[name] = asyncio.Semaphore(CONNECTIONS_PER_CONSUMER)
        return consumer

    async def _send(self, request: Request, progress: _Progress) -> Answer:
        progress.stage = "no answer within"
        prepared = await self._prepared(request)
        kept = self._take_idle(prepared.place) if request.repeatable else None
        if kept is not None:
            # The server may be closing it at this moment. Then nothing of an answer arrives, and a new one is opened.
            with contextlib.suppress(Disconnected, ConnectionError):
                return await self._exchange(kept, prepared, progress)
        return await self._exchange(await self._open(prepared.place), prepared, progress)

    async def _open(self, place: Place) -> Connection:
        """Open a connection, unless the exchange is closed or is being closed meanwhile."""
        self._refuse_if_closed()
        connection = await connect(place, self._names)
        if self._is_closed:
            connection.abort()
        self._refuse_if_closed()
        return connection

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise NoAnswer("gpumand is stopping")

    async def _prepared(self, request: Request) -> _Prepared:
        body = b"" if request.json is None else json.dumps(request.json).encode()
        host, port = address_of(urlsplit(request.url))
        tls = await self._certificates.context_for(request.url)
        place = Place(host, port, tls if isinstance(tls, ssl.SSLContext) else None, request.socket)
        return _Prepared(request, place, head_of(request, body), body)

    async def _exchange(self, connection: Connection, prepared: _Prepared, progress: _Progress) -> Answer:
        """Send a request over a connection and read its answer; the connection is kept or closed afterwards."""
        self._active.add(connection)
        is_kept = False
        try:
            response = await connection.send(prepared.head, prepared.body)
            progress.stage = f"answered {response.status_code}, but the answer did not end within"
            progress.body = body = _Body()
            headers = {bytes(name): value.decode("utf-8", "replace") for name, value in response.headers}
            is_stream = headers.get(b"content-type", "").partition(";")[0].strip().lower() in STREAM_TYPES
            limit = STREAM_BYTES if prepared.request.reads_to_end or is_stream else BODY_BYTES
            is_ended = await _read(connection, body, limit)
            is_kept = is_ended and self._keep(prepared.place, connection)
            is_cut = body.is_cut() or not is_ended
            tail = body.end() if is_ended and is_cut else b""
            reason, location = response.reason.decode("utf-8", "replace"), headers.get(b"location", "")
            content, encoding = bytes(body.head), headers.get(b"content-encoding", "")
            if encoding and not is_cut:
                content, is_cut = decompress(content, encoding, BODY_BYTES)
            return Answer(response.status_code, reason, location, content, is_cut, tail)
        finally:
            self._active.discard(connection)
            if not is_kept:
                connection.abort()

    def _take_idle(self, place: Place) -> Connection | None:
        """A kept connection to a server that is still open; None where there is none."""
        while idle := self._idle.get(place):
            connection, timer = idle.pop()
            timer.cancel()
            if not idle:
                del self._idle[place]
            if connection.is_reusable:
                return connection
            connection.abort()
        return None

    def _keep(self, place: Place, connection: Connection) -> bool:
        """Keep a connection for the next request, if the server does; those of Unix sockets cost little to open.

        One for each server is enough for its probes, and more would be many open files after a storm of requests.
        """
        if self._is_closed or place.socket or place in self._idle or not connection.begin_again():
            return False
        timer = asyncio.get_running_loop().call_later(KEEPALIVE_SEC, self._drop_idle, place, connection)
        self._idle.setdefault(place, []).append((connection, timer))
        return True

    def _drop_idle(self, place: Place, connection: Connection) -> None:
        left = [one for one in self._idle.get(place, []) if one[0] is not connection]
        if left:
            self._idle[place] = left
        else:
            self._idle.pop(place, None)
        connection.abort()


async def _read(connection: Connection, body: _Body, limit: int) -> bool:
    """Read a body up to a limit of bytes and parts; return whether that was its end.

    Bytes that have arrived already are read without waiting, which would block the event loop if the parts are small.
    """
    clock = asyncio.get_running_loop().time
    turn_began = clock()
    for _ in range(MAX_PARTS):
        if not (chunk := await connection.read()):
            return True
        body.add(chunk)
        if body.size > limit:
            return False
        if clock() - turn_began > TURN_SEC:
            await asyncio.sleep(0)
            turn_began = clock()
    return False


def _describe_error(error: Exception) -> str:
    """Return a one-line message for a failure of an open connection."""
    if isinstance(error, Disconnected):
        return "closed the connection without an answer"
    if isinstance(error, EndedEarly):
        return "the answer ended early"
    detail = one_line((error.strerror if isinstance(error, OSError) else None) or str(error)) or type(error).__name__
    if isinstance(error, h11.RemoteProtocolError):
        return f"did not answer in HTTP: {detail}"
    return f"the connection failed: {detail}" if isinstance(error, OSError) else f"the request failed: {detail}"
