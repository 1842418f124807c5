"""One HTTP/1.1 connection to a consumer: h11 speaks the protocol, asyncio moves the bytes.

A consumer is untrusted: the head of its answer is limited by h11 (16 KiB, or up to 80 KiB with what arrives
at once), and the number of interim answers here.
Bodies are limited by the caller, which may stop reading at any time.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass

import h11

from gpumand.consumers.answers import NoAnswer, one_line
from gpumand.consumers.host_names import HostNames

CHUNK_BYTES = 64 * 1024

CONNECT_SEC = 5.0
"""Timeout of connecting. A local service accepts a connection at once unless its accept queue is full."""

ADDRESS_SEC = 1.0
"""Timeout for one address of a host name that has others."""

NOT_THERE = (
    errno.ECONNREFUSED,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
)
"""Errors of an address which do not contradict that another address of the same host refuses connections."""

MAX_INTERIM_ANSWERS = 1000
"""Answers with a status below 200 before the real one. A server may send one every second while it loads a model."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens.

    Attributes:
        host: name or address of its host.
        port: its TCP port.
        tls: the context of https; None = plain HTTP.
        socket: path of its Unix socket; "" = TCP.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    socket: str = ""

    @property
    def address(self) -> str:
        """Host and port for messages."""
        return f"{self.host}:{self.port}"


class Disconnected(Exception):
    """The connection was closed before the head of an answer was complete, by the server or from here."""


class EndedEarly(Exception):
    """The server closed the connection within an answer."""


class CountingReader(asyncio.StreamReader):
    """A reader that counts the bytes that have arrived, read or not."""

    arrived = 0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # typeshed allows more than asyncio passes
        """Take bytes from the transport."""
        self.arrived += len(data)
        super().feed_data(data)


class Connection:
    """An open connection, which serves one request at a time."""

    def __init__(self, reader: CountingReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self._taken = 0
        self._is_aborted = False

    @property
    def is_reusable(self) -> bool:
        """Whether the server has neither closed it nor sent anything that was not asked for."""
        is_quiet = self._reader.arrived == self._taken and not self._http.trailing_data[0]
        return is_quiet and not (self._reader.at_eof() or self._writer.is_closing())

    async def send(self, request: h11.Request, body: bytes) -> h11.Response:
        """Send a request and read the head of its answer.

        Raises:
            Disconnected: the server closed the connection instead.
            h11.ProtocolError: the request or the answer is no HTTP.
            OSError: the connection failed.
        """
        events: list[h11.Event] = [request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()
        for _ in range(MAX_INTERIM_ANSWERS):
            event = await self._next_event(is_in_answer=False)
            if isinstance(event, h11.Response):
                return event
        raise h11.RemoteProtocolError(f"it sent {MAX_INTERIM_ANSWERS} interim answers")

    async def read(self) -> bytes:
        """Return the next part of the answer's body; b"" at its end.

        Raises:
            EndedEarly: the connection was closed before the end, or aborted from here.
            h11.ProtocolError: the answer is no HTTP.
            OSError: the connection failed.
        """
        event = await self._next_event(is_in_answer=True)
        while isinstance(event, h11.Data) and not event.data:
            event = await self._next_event(is_in_answer=True)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next_event(self, *, is_in_answer: bool) -> object:
        data = None
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._reader.read(CHUNK_BYTES)
                self._taken += len(data)
                if not data and not is_in_answer:
                    raise Disconnected
                if not data and self._is_aborted:
                    raise EndedEarly  # a body that ends with the connection would count as complete
                self._http.receive_data(data)
        except h11.RemoteProtocolError:
            if data == b"":
                raise EndedEarly from None
            raise
        return event

    def begin_again(self) -> bool:
        """Prepare for another request; returns whether the server keeps the connection open for one."""
        is_over = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if not (is_over and self.is_reusable):
            return False
        self._http.start_next_cycle()
        return True

    def abort(self) -> None:
        """Close it at once; a read in progress ends."""
        self._is_aborted = True
        self._writer.transport.abort()


async def connect(place: Place, names: HostNames) -> Connection:
    """Open a connection. Raises NoAnswer, or ValueError for a host that is no name."""
    try:
        async with asyncio.timeout(CONNECT_SEC):
            sock = await (_connect_unix(place.socket) if place.socket else _connect_tcp(place, names))
            return await _with_streams(place, sock)
    except TimeoutError:
        raise NoAnswer(f"no connection within {CONNECT_SEC:g} s") from None


async def _with_streams(place: Place, sock: socket.socket) -> Connection:
    loop, reader = asyncio.get_running_loop(), CountingReader(limit=CHUNK_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    host = place.host if place.tls is not None else None
    try:
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock, ssl=place.tls, server_hostname=host)
        return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
    except (ssl.SSLError, ssl.CertificateError) as error:
        raise NoAnswer(f"TLS handshake with {place.address} failed: {one_line(str(error))}") from None
    except OSError as error:
        raise NoAnswer(f"connecting to {place.address} failed: {one_line(error.strerror or str(error))}") from None
    except BaseException:
        sock.close()
        raise


async def _connect_tcp(place: Place, names: HostNames) -> socket.socket:
    found = await names.addresses(place.host, place.port)
    errors: list[OSError] = []
    for number, (family, kind, protocol, _, address) in enumerate(found, start=1):
        try:
            async with asyncio.timeout(ADDRESS_SEC if number < len(found) else None):
                return await _connected(socket.socket(family, kind, protocol), address)
        except OSError as error:  # TimeoutError is one
            errors.append(error)
    raise _connection_failure(place, errors)


async def _connected(sock: socket.socket, address: object) -> socket.socket:
    """Connect a socket, which is closed if that fails."""
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]  # any family's address
    except BaseException:
        sock.close()
        raise
    return sock


def _connection_failure(place: Place, errors: list[OSError]) -> NoAnswer:
    error = _deciding_error(errors)
    if isinstance(error, TimeoutError):
        return NoAnswer(f"no connection to {place.address} within {ADDRESS_SEC:g} s")
    if error.errno == errno.ECONNREFUSED:
        return NoAnswer(f"nothing listens on {place.address} (connection refused)", refused=True)
    if error.errno in (errno.EPERM, errno.EACCES):
        return NoAnswer(f"connecting to {place.address} is not permitted: check IPAddressAllow= of gpumand.service")
    return NoAnswer(f"connecting to {place.address} failed: {one_line(error.strerror or str(error)) or 'no address'}")


def _deciding_error(errors: list[OSError]) -> OSError:
    """The error that says most of the server.

    A host name often has an IPv6 address that this host has no route to, and the refusal of another address says more.
    But where one address does not answer in time, a busy server may listen there, and the refusal proves nothing.
    """
    late = [one for one in errors if isinstance(one, TimeoutError)]
    unclear = [one for one in errors if one.errno not in NOT_THERE]
    refused = [one for one in errors if one.errno == errno.ECONNREFUSED]
    return next(iter((*late, *unclear, *refused, *reversed(errors))), OSError())


async def _connect_unix(path: str) -> socket.socket:
    try:
        return await _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
    except TimeoutError:
        raise
    except OSError as error:
        raise _socket_failure(path, error) from None


def _socket_failure(path: str, error: OSError) -> NoAnswer:
    if error.errno == errno.ENOENT:
        return NoAnswer(f"there is no socket {path}", refused=True)
    if error.errno == errno.ECONNREFUSED:
        return NoAnswer(f"nothing listens on the socket {path} (connection refused)", refused=True)
    if error.errno in (errno.EPERM, errno.EACCES):
        return NoAnswer(
            f"connecting to the socket {path} is not permitted: the user that gpumand runs as needs access to it"
        )
    return NoAnswer(f"connecting to the socket {path} failed: {one_line(error.strerror or str(error))}")
