"""A container engine without containers: the part of Docker's API that gpumand uses, on a Unix socket, with faults."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NEVER = "0001-01-01T00:00:00Z"
STOPPED_BY_TERM = 143


@dataclass(slots=True)
class FakeContainer:
    """A container and its behaviour; a test may change any field at any time.

    Attributes:
        name: its name.
        id: its full id.
        status: "created", "running", "exited" …
        pid: its main process.
        exit_code: of its last run.
        restart_policy: "no", "always" …
        restarts: how often its policy has started it again.
        runs: number of its runs; ``started_at`` is derived from it.
        created: when it was created, in seconds since 1970.
        labels, environment: as in the answer of the engine.
        ports: published ports, by port in the container.
        lines: its output.
        stop_sec, start_sec: duration of a stop and of a start.
        comes_back: a stop is followed by a new run, as with a supervisor that fights it.
        stays: a stop has no effect although the engine reports success.
        exits_at_once: a run ends at once, with ``exit_code``.
        start_error: the engine's error instead of a start.
        started, stopped: called after a start or stop.
    """

    name: str
    id: str = "1" * 64
    status: str = "created"
    pid: int = 4321
    exit_code: int = 0
    restart_policy: str = "no"
    restarts: int = 0
    runs: int = 0
    created: int = 1_800_000_000
    labels: dict[str, str] = field(default_factory=dict)
    environment: list[str] = field(default_factory=lambda: ["TOKEN=secret"])
    ports: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    stop_sec: float = 0.0
    start_sec: float = 0.0
    comes_back: bool = False
    stays: bool = False
    exits_at_once: bool = False
    start_error: str = ""
    started: Callable[[], object] = lambda: None
    stopped: Callable[[], object] = lambda: None

    @property
    def running(self) -> bool:
        """Whether its main process runs."""
        return self.status == "running"

    @property
    def started_at(self) -> str:
        """When its last run began, as the engine writes it."""
        return time.strftime("%Y-%m-%dT%H:%M:%S.5Z", time.gmtime(1.8e9 + self.runs)) if self.runs else NEVER

    def begin(self) -> None:
        """Start a run."""
        self.runs += 1
        self.status = "exited" if self.exits_at_once else "running"
        self.started()

    def end(self, exit_code: int = STOPPED_BY_TERM) -> None:
        """End its run."""
        self.status, self.exit_code = "exited", exit_code
        self.stopped()

    def listed(self) -> dict[str, Any]:
        """The entry in a list of containers."""
        return {"Id": self.id, "Names": [f"/{self.name}"], "Created": self.created, "Labels": self.labels}

    def described(self) -> dict[str, Any]:
        """The answer to an inspect."""
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "RestartCount": self.restarts,
            "State": {
                "Status": self.status,
                "Running": self.running,
                "Pid": self.pid if self.running else 0,
                "ExitCode": 0 if self.running else self.exit_code,
                "OOMKilled": False,
                "Error": "",
                "StartedAt": self.started_at,
            },
            "HostConfig": {"RestartPolicy": {"Name": self.restart_policy}, "NetworkMode": "bridge"},
            "Config": {"Image": "comfyui:latest", "Env": self.environment, "Labels": self.labels},
            "Mounts": [{"Source": "/root/.ssh"}],
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}, "Ports": self.ports},
        }


class FakeEngine:
    """A container engine on a Unix socket.

    Attributes:
        containers: its containers.
        requests: method and path of all requests, in order.
        hangs: no request is answered.
        garbage: raw bytes that are sent instead of every answer.
        listing: body of every list of containers instead of the right one; empty = the right one.
        status: HTTP status of every answer instead of the right one; 0 = none.
    """

    def __init__(self, *containers: FakeContainer) -> None:
        self.containers = list(containers)
        self.requests: list[str] = []
        self.hangs = False
        self.garbage, self.listing = b"", b""
        self.status = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self, path: str) -> None:
        """Accept connections on a socket."""
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def close(self) -> None:
        """Stop, and drop connections."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n")[0].split(" ")
            self.requests.append(f"{method} {target}")
            if self.hangs:
                await asyncio.Event().wait()
            url = urllib.parse.urlsplit(target)
            is_list = (method, url.path) == ("GET", "/containers/json")
            answer = self._list(url) if is_list else await self._answer(method, url)
            status, body = answer
            writer.write(self.garbage or _response(self.status or status, body))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def _list(self, url: urllib.parse.SplitResult) -> tuple[int, bytes]:
        query = urllib.parse.parse_qs(url.query)
        filters = json.loads(query.get("filters", ["{}"])[0])
        listed = [one for one in self.containers if one.running or "all" in query]
        listed = [one for one in listed if all(re.search(pattern, one.name) for pattern in filters.get("name", ()))]
        listed = [one for one in listed if all(label in one.labels for label in filters.get("label", ()))]
        return 200, self.listing or json.dumps([one.listed() for one in listed]).encode()

    async def _answer(self, method: str, url: urllib.parse.SplitResult) -> tuple[int, bytes]:
        _, root, name, operation = (*url.path.split("/"), "", "", "")[:4]
        found = [one for one in self.containers if name == one.name or one.id.startswith(name)]
        if root != "containers" or not found:
            return 404, json.dumps({"message": f"No such container: {name}"}).encode()
        container = found[0]
        match method, operation:
            case "GET", "json":
                return 200, json.dumps(container.described()).encode()
            case "GET", "logs":
                return 200, b"".join(map(_frame, container.lines))
            case "POST", "start":
                return await self._start(container)
            case "POST", "stop":
                return await self._stop(container)
        return 404, b"{}"

    async def _start(self, container: FakeContainer) -> tuple[int, bytes]:
        if container.running:
            return 304, b""
        await asyncio.sleep(container.start_sec)
        if container.start_error:
            return 500, json.dumps({"message": container.start_error}).encode()
        container.begin()
        return 204, b""

    async def _stop(self, container: FakeContainer) -> tuple[int, bytes]:
        if not container.running:
            return 304, b""
        await asyncio.sleep(container.stop_sec)
        if not container.stays:
            container.end()
        if container.comes_back:
            container.begin()
        return 204, b""


def _frame(line: str) -> bytes:
    """A line in Docker's stream format."""
    text = f"{line}\n".encode()
    return struct.pack(">BxxxI", 1, len(text)) + text


def _response(status: int, body: bytes) -> bytes:
    length = "" if status in (204, 304) else f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{length}Connection: close\r\n\r\n".encode() + (b"" if not length else body)
