"""An agent on a free port in front of a scripted gpumand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.client.lease_watch import Ended
from gpumand.domain.errors import GpumandError
from gpumand.domain.residency_states import Residency
from gpumand.fleet.agent import Agent
from gpumand.fleet.calls import AcquireCall, LoadCall, PlanCall
from gpumand.fleet.http_server import HttpServer
from gpumand.fleet.intents import IntentGuard
from gpumand.fleet.keys import Keys
from gpumand.fleet.listening import bind_all
from gpumand.fleet.local_host import LocalHost
from gpumand.fleet.row_builder import HostFacts
from gpumand.fleet.rows import ConsumerRow, HostRow
from gpumand.fleet.settings import FleetConfig, Right
from gpumand.fleet.table import HostTable

MACHINE_ID = "1" * 32
CHAT = {"consumer": "chat", "wait_sec": 5}
STREAM_HEAD = b"POST /v1/acquire HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class ScriptedHeld:
    """A lease of the scripted gpumand."""

    def __init__(self, consumer: str) -> None:
        self.id, self.consumer, self.device = "ab12", consumer, "0"
        self.endpoint, self.evicted, self.loaded, self.waited_sec = "http://127.0.0.1:1", ("image",), True, 1.5
        self.ended = Ended()
        self.released = False

    async def release(self) -> None:
        self.released = True
        self.ended.set("released")


@dataclass
class ScriptedGpumand:
    """A gpumand that answers as a test says.

    Attributes:
        error: raised by every call.
        before: awaited before a lease is granted.
        leases: all leases that were granted.
        acquired: what was asked for, and for which user and host.
    """

    error: GpumandError | None = None
    before: Callable[[], Awaitable[object]] | None = None
    leases: list[ScriptedHeld] = field(default_factory=list)
    acquired: list[tuple[AcquireCall, str]] = field(default_factory=list)
    loaded: list[tuple[LoadCall, str]] = field(default_factory=list)
    cancelled: int = 0

    async def acquire(self, call: AcquireCall, on_behalf: str) -> Any:
        self.acquired.append((call, on_behalf))
        try:
            if self.before is not None:
                await self.before()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        self.leases.append(ScriptedHeld(call.consumer))
        return self.leases[-1]

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"verdict": "grant", "consumer": call.consumer}

    async def load(self, call: LoadCall, on_behalf: str) -> dict[str, Any]:
        self.loaded.append((call, on_behalf))
        return {"changed": True}

    async def status(self) -> dict[str, Any]:
        return {"version": "1.0"}


class AgentServer:
    """The agent and what is behind it.

    Attributes:
        gpumand: the scripted gpumand.
        row: the row of the host; tests replace it.
        drains: the drains that were asked for.
        table: the table of the host, which no store feeds.
    """

    def __init__(self) -> None:
        self.gpumand = ScriptedGpumand()
        self.row = HostRow(MACHINE_ID, name="gpu1", consumers={"chat": ConsumerRow(Residency.RESIDENT)})
        self.config = FleetConfig(host="gpu1", url="http://gpu1", allow={"*": frozenset(map(str, Right))})
        self.drains: list[bool] = []
        facts = HostFacts(MACHINE_ID, "gpu1", "http://gpu1", "http://gpu1:8770")
        self.table = HostTable(Keys("lab"), asyncio.get_running_loop().time)
        guard = IntentGuard(self.table, MACHINE_ID, lambda: self.row)
        host = LocalHost(self.gpumand, facts, lambda: self.row, self._drain, guard, known=lambda: 2**40)
        self.agent = Agent(lambda: self.config, host, lambda: self.row, self.gpumand.status)
        self.server = HttpServer(self.agent.routes())
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def _drain(self, drain: bool) -> bool:
        self.drains.append(drain)
        return True

    def allow(self, *rights: Right) -> None:
        """Let callers without a certificate do only this."""
        self.config = replace(self.config, allow={"*": frozenset(map(str, rights))})

    async def send(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(data)
        return reader, writer

    async def close(self) -> None:
        """End the agent and all connections of the test."""
        await self.server.close()
        for writer in self._writers:
            writer.transport.abort()
        # The transports are closed in the next iteration of the loop.
        await asyncio.sleep(0)

    async def post(self, path: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a request and return the status and the first JSON object of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.exchange(head(path, len(data)) + data)

    async def exchange(self, data: bytes) -> tuple[int, dict[str, Any]]:
        """Send bytes and return the status and the JSON object of the answer."""
        reader, writer = await self.send(data)
        try:
            async with asyncio.timeout(30):
                status, _ = await read_head(reader)
                return status, json.loads(await reader.read() or b"{}")
        finally:
            writer.close()


def head(path: str, length: int, method: str = "POST") -> bytes:
    """The head of a request whose connection is closed after the answer."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n".encode()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the head of an answer."""
    data = await reader.readuntil(b"\r\n\r\n")
    return int(data.split()[1]), data


@asynccontextmanager
async def agent_server() -> AsyncIterator[AgentServer]:
    """Run an agent."""
    made = AgentServer()
    (listener,) = bind_all(["127.0.0.1:0"])
    made.port = listener.getsockname()[1]
    await made.server.listen(listener)
    try:
        yield made
    finally:
        await made.close()


def chunk(data: bytes) -> bytes:
    """A chunk of a body that is sent in chunks."""
    return b"%x\r\n%s\r\n" % (len(data), data)
