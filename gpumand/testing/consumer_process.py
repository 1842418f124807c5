"""Starting consumer processes from a test: ``async with consumer_process(...) as consumer``."""

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
    """A running ``gpumand.testing.consumer``.

    Attributes:
        name: the consumer's.
        url: where it serves.
        pid: its process.
        process: to signal and to wait for.
    """

    def __init__(self, name: str, port: int, process: Process, session: aiohttp.ClientSession) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.pid = process.pid
        self.process = process
        self._session = session

    async def get(self, path: str) -> Any:
        """The JSON that a GET answers."""
        async with self._session.get(self.url + path) as response:
            return await response.json()

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Status and JSON that a POST answers."""
        async with self._session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def health(self) -> dict[str, Any]:
        """What /health says; its figures are true unless it was told to lie."""
        return dict(await self.get("/health"))

    async def fault(self, kind: str, **fields: Any) -> None:
        """Misbehave from now on; "none" ends it."""
        status, answer = await self.post("/fault", kind=kind, **fields)
        if status != 200:
            raise ValueError(answer["error"])

    async def events(self, word: str) -> list[float]:
        """When (CLOCK_MONOTONIC seconds) that happened: load-called, loaded, unload-called, freed, oom."""
        return [at for at, what in await self.get("/events") if what == word]

    async def kill(self) -> None:
        """Let it die without a word."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Let it end in order; its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


@contextlib.asynccontextmanager
async def consumer_process(name: str, mib: int, simulator_dir: Path, *flags: str) -> AsyncIterator[ConsumerProcess]:
    """Start one, wait until it serves, and see that it is gone at the end.

    Args:
        name: the consumer's.
        mib: what its model takes.
        simulator_dir: where it announces that.
        flags: more, as on its command line.

    Raises:
        RuntimeError: it does not come up.
    """
    words = ["--name", name, "--mib", str(mib), "--simulator-dir", str(simulator_dir), *flags]
    command = [sys.executable, "-m", "gpumand.testing.consumer", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        port = await _port(name, process)
        async with aiohttp.ClientSession() as session:
            yield ConsumerProcess(name, port, process, session)
    finally:
        await _end(process)


async def _port(name: str, process: Process) -> int:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SEC)
        return int(line.decode().split()[1].removeprefix("port="))
    except (TimeoutError, IndexError, ValueError):
        raise RuntimeError(f"the consumer process {name} did not come up") from None


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.communicate()  # to the end of its pipe, so that none is left open
