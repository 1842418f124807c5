"""An HTTP server like those of consumers, for tests of the gateway: streams, WebSockets, jobs, uploads, counters."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

RUNNER_KEYS = inspect.signature(web.BaseRunner.__init__).parameters


QUICK_END: dict[str, Any] = {"shutdown_timeout": 0.1} if "shutdown_timeout" in RUNNER_KEYS else {}
"""Debian 12's aiohttp ends connections at once, and does not know the key."""

PACKED = gzip.compress(b"compressed words " * 20_000, mtime=0)
"""An answer that is much smaller than its content."""

PACKED_HEADERS = {
    "Content-Type": "application/json",
    "Content-Encoding": "gzip",
    "Vary": "Accept-Encoding",
    "ETag": 'W/"17"',
}


class FakeService:
    """A server in the test's process, which can be stopped and started at the same port.

    Attributes:
        seen: method, path and headers of each request.
        jobs: number of jobs that the busy check reports.
        busy_answer: status and body of the busy check instead; None = as ``jobs`` says.
        bodies_as_sent: the bodies of requests to /packed and /object_info, which are not decompressed.
        sockets: WebSockets that are open, each with the request that opened it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.jobs = 0
        self.busy_answer: tuple[int, str] | None = None
        self.bodies_as_sent: list[bytes] = []
        self.uploaded = 0
        self.cancelled = 0
        self.sockets: dict[web.WebSocketResponse, web.Request] = {}
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        """Method and path of all requests, without the health and busy checks of gpumand."""
        return [f"{method} {path}" for method, path, _ in self.seen]

    async def start(self) -> None:
        """Listen; a second start uses the same port."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, max_field_size=65536, auto_decompress=False, **QUICK_END)
        await self._runner.setup()
        if self._path is not None:
            await web.UnixSite(self._runner, str(self._path)).start()
            return
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        for socket in tuple(self.sockets):
            with contextlib.suppress(Exception):
                await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def abort_sockets(self) -> None:
        """Cut the connections of all WebSockets, without a closing handshake."""
        for request in tuple(self.sockets.values()):
            if request.transport is not None:
                request.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        handler = {
            "/slow": self._slow,
            "/v1/chat/completions": self._chat,
            "/upload": self._upload,
            "/prompt": self._prompt,
            "/sdapi/v1/progress": self._progress,
            "/ws": self._socket,
            "/queue/join": self._socket,
            "/stream": self._stream,
            "/redirect": self._redirect,
            "/cut": self._cut,
            "/gone": self._gone,
            "/packed": self._packed,
            "/object_info": self._packed,
            "/session": self._session,
        }.get(request.path, self._echo)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        return web.json_response({"path": request.raw_path, "headers": dict(request.headers), "body": body.decode()})

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(float(request.query.get("sec", "1")))
        return web.json_response({"ok": True})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if body.get("fail"):
            return web.json_response({"error": {"message": "bad model"}}, status=400)
        if not body.get("stream"):
            return web.json_response({"choices": [{"message": {"content": "hello"}}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in ("one", "two"):
            await response.write(f'data: {{"word": "{word}"}}\n\n'.encode())
            await asyncio.sleep(float(body.get("pause", 0)))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(int(request.query["chunks"])):
            await response.write(f"{number}\n".encode())
            await asyncio.sleep(float(request.query.get("pause", "0.05")))
        return response

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        self.uploaded += size
        return web.json_response({"bytes": size})

    async def _prompt(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.jobs += 1
            await asyncio.sleep(float(request.query.get("sec", "0")))
            return web.json_response({"prompt_id": "1"})
        if self.busy_answer is not None:
            status, body = self.busy_answer
            return web.Response(status=status, text=body)
        return web.json_response({"exec_info": {"queue_remaining": self.jobs}})

    async def _progress(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"state": {"job": "task" if self.jobs else "", "job_count": -1 if self.jobs else 0}})

    async def _redirect(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": f"{self.url}/elsewhere"})

    async def _session(self, request: web.Request) -> web.StreamResponse:
        number = len(self.seen)
        await asyncio.sleep(0.2)
        return web.json_response({}, headers={"Set-Cookie": f"session={number}"})

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begin")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _gone(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _packed(self, request: web.Request) -> web.StreamResponse:
        self.bodies_as_sent.append(await request.read())
        return web.Response(body=PACKED, headers=PACKED_HEADERS)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("chat",))
        await socket.prepare(request)
        self.sockets[socket] = request
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(f"echo {message.data}")
        finally:
            self.sockets.pop(socket, None)
        return socket


@contextlib.asynccontextmanager
async def fake_service(path: Path | None = None) -> AsyncIterator[FakeService]:
    """A running server, on a TCP port or on a Unix socket."""
    service = FakeService(path)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def json_lines(body: bytes) -> list[Any]:
    """The documents of an answer in JSON lines."""
    return [json.loads(line) for line in body.splitlines() if line.strip()]
