"""A server that records each request as it arrives, with a strict parser that is not that of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import h11


@dataclass
class Recorded:
    """What has arrived.

    Attributes:
        url: base URL of the server.
        requests: method, target and body of each request that arrived completely.
        begun: the targets of all heads.
        errors: what was no valid HTTP.
        connections: the targets of all heads, by connection.
    """

    url: str = ""
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    connections: list[list[str]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def recording_service(port: int = 0) -> AsyncIterator[Recorded]:
    """A running server that answers every complete request with 200."""
    recorded, tasks = Recorded(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await _serve(reader, writer, recorded)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    recorded.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield recorded
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recorded: Recorded) -> None:
    parser = h11.Connection(h11.SERVER)
    request, body = None, b""
    targets: list[str] = []
    recorded.connections.append(targets)
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            # The gateway ends the connection in the middle of a request that turns out to be invalid.
            if "peer unexpectedly closed" not in str(error) and "complete message body" not in str(error):
                recorded.errors.append(str(error))
            return
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            request, body = event, b""
            recorded.begun.append(event.target.decode())
            targets.append(event.target.decode())
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            recorded.requests.append((request.method.decode(), request.target.decode(), body))
            answer = parser.send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
            writer.write((answer or b"") + (parser.send(h11.Data(data=b"ok")) or b""))
            parser.send(h11.EndOfMessage())
            if parser.our_state is not h11.DONE:
                return
            # What has arrived already would be the next request, as a server takes it.
            parser.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return
