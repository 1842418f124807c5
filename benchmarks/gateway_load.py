"""The server and the clients of the gateway's benchmark. They do little, since their time is measured too.

``python -m benchmarks.gateway_load serve`` prints its port and serves; ``flood PORT CONNECTIONS SECONDS`` prints how
many requests were answered.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
import time

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}'
ANSWER = b'{"id":"1","choices":[{"message":{"role":"assistant","content":"ok"}}]}'
STREAM_CHUNKS, STREAM_GAP_SEC = 100, 0.005
BUFFER_BYTES = 65536

_REQUEST = b"POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
PLAIN = _REQUEST % (b"embeddings", len(BODY), BODY)
STREAM = _REQUEST % (b"stream", len(BODY), BODY)
_PLAIN_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class _Server(asyncio.Protocol):
    """Answers each request at once, or with a stream of the times at which its chunks were sent."""

    def __init__(self) -> None:
        self._got = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        assert self._transport is not None
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = self._got[:end].lower()
            # A proxy may send a body in chunks; both forms end with the same brace.
            last = self._got.find(b"false}", end)
            if last < 0:
                return
            tail = last + len(b"false}")
            if b"transfer-encoding" in head:
                final = self._got.find(b"0\r\n\r\n", tail)
                if final < 0:
                    return
                tail = final + 5
            self._got = self._got[tail:]
            if b"/v1/stream" in head:
                self._task = asyncio.ensure_future(self._stream())
            else:
                self._transport.write(_PLAIN_ANSWER % (len(ANSWER), ANSWER))

    async def _stream(self) -> None:
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(STREAM_CHUNKS):
            await asyncio.sleep(STREAM_GAP_SEC)
            event = b"data: %020d\n\n" % time.monotonic_ns()
            self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        self._transport.write(b"0\r\n\r\n")


async def serve() -> None:
    """Serve until the process is killed."""
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def first_byte_times(port: int, requests: int) -> list[float]:
    """Seconds from a request to the first byte of its answer, one request at a time on one connection."""
    took: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests):
            began = time.perf_counter()
            client.sendall(PLAIN)
            got = client.recv(BUFFER_BYTES)
            took.append(time.perf_counter() - began)
            while not got.endswith(ANSWER):
                got += _more(client)
    return took


def chunk_times(port: int) -> list[float]:
    """Seconds from the sending of each chunk of a stream to its arrival."""
    took: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(STREAM)
        got = b""
        while len(took) < STREAM_CHUNKS:
            got += _more(client)
            now = time.monotonic_ns()
            while (at := got.find(b"data: ")) >= 0 and len(got) >= at + 28:
                took.append((now - int(got[at + 6 : at + 26])) / 1e9)
                got = got[at + 28 :]
    return took


def flood(port: int, connections: int, seconds: float) -> int:
    """The number of requests that were answered in this time, on many connections at once."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ)
        client.sendall(PLAIN)
    answered, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            got = _more(key.fileobj)
            while not got.endswith(ANSWER):
                got += _more(key.fileobj)
            if not got.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"refused: {got[:200]!r}")
            answered += 1
            key.fileobj.sendall(PLAIN)
    return answered


def _more(client: socket.socket) -> bytes:
    got = client.recv(BUFFER_BYTES)
    if not got:
        raise RuntimeError("the connection was closed")
    return got


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        print(flood(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
