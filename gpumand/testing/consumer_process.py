"""Starts simulated consumer processes in tests: ``async with consumer_process(...) as consumer``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

START_SEC = 20.0


class ConsumerProcess:
    """A running ``gpumand.testing.consumer`` process.

    Attributes:
        name: name of the consumer.
        url: base URL of its HTTP server.
        pid: process id.
        process: the process, for sending signals and waiting.
    """

    def __init__(self, name: str, port: int, process: Process, session: aiohttp.ClientSession) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.pid = process.pid
        self.process = process
        self._session = session

    async def get(self, path: str) -> Any:
        """Return the JSON answer to a GET request."""
        async with self._session.get(self.url + path) as response:
            return await response.json()

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Return status and JSON answer of a POST request."""
        async with self._session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def health(self) -> dict[str, Any]:
        """Return the answer of /health, which is correct unless a fault changes it."""
        return dict(await self.get("/health"))

    async def fault(self, kind: str, **fields: Any) -> None:
        """Set a fault; "none" clears all faults. Raises ValueError if there is no such fault."""
        status, answer = await self.post("/fault", kind=kind, **fields)
        if status != 200:
            raise ValueError(answer["error"])

    async def events(self, word: str) -> list[float]:
        """Return the times (CLOCK_MONOTONIC seconds) of an event: load-called, loaded, unload-called, freed, oom."""
        return [at for at, event in await self.get("/events") if event == word]

    async def kill(self) -> None:
        """Kill the process."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Terminate the process in an orderly way and return its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


@contextlib.asynccontextmanager
async def consumer_process(name: str, mib: int, simulator_dir: Path, *flags: str) -> AsyncIterator[ConsumerProcess]:
    """Start a consumer, wait until it serves, and kill it at the end.

    Args:
        name: name of the consumer.
        mib: VRAM of its model.
        simulator_dir: the directory of announcements.
        flags: further options of its command line.

    Raises:
        RuntimeError: the process does not start.
    """
    words = ["--name", name, "--mib", str(mib), "--simulator-dir", str(simulator_dir), *flags]
    command = [sys.executable, "-m", "gpumand.testing.consumer", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        port = await _port(name, process)
        # Without connections that stay open: those of clients are evidence that an unload may wait for their requests.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            yield ConsumerProcess(name, port, process, session)
    finally:
        await _end(process)


async def _port(name: str, process: Process) -> int:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SEC)
        return int(line.decode().split()[1].removeprefix("port="))
    except (TimeoutError, IndexError, ValueError):  # too slow, or the process ended without a READY line
        raise RuntimeError(f"the consumer process {name} did not start") from None


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.communicate()  # reads to the end of the pipe, which closes it
