"""A real etcd without TLS that a test can kill and start again, and a proxy in front of it that loses answers."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from tests.integration.fleet.tls_etcd import START_SEC, free_port

MEMORY_FOLDER = Path("/dev/shm")
"""A file system in memory: etcd waits for its disk with every write."""

ATTEMPTS = 5
"""Another process can take a free port before etcd does."""


class PlainEtcd:
    """etcd with one member, on ports that were free."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client_port, self._peer_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._client_port}"

    def start(self) -> bool:
        """Start the member and wait until it answers; return false if it ended, for example for want of its port."""
        peers = f"http://127.0.0.1:{self._peer_port}"
        command = ["etcd", "--name=one", f"--data-dir={self._folder}/data", f"--listen-client-urls={self.url}"]
        command += [f"--advertise-client-urls={self.url}", f"--listen-peer-urls={peers}"]
        command += [f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=one={peers}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SEC
        while not self._answers():
            if self._process.poll() is not None:
                return False
            assert time.monotonic() < deadline, (self._folder / "log").read_text(encoding="utf-8")
            time.sleep(0.05)
        return True

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return b"true" in answer.read(1000)
        except OSError:
            return False

    def kill(self) -> None:
        """End the member without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_etcd() -> Iterator[PlainEtcd]:
    """Start etcd with a folder in memory, and end it."""
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix="etcd-", dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None))
        etcd = PlainEtcd(folder)
        try:
            if etcd.start():
                yield etcd
                return
        finally:
            etcd.kill()
            shutil.rmtree(folder, ignore_errors=True)
    pytest.fail(f"etcd did not start in {ATTEMPTS} attempts")


class LossyProxy:
    """Passes requests on to etcd, and can close the connection instead of passing the answer back.

    Attributes:
        lose: number of answers that will be lost.
        paths: the paths of all requests.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._runner: web.ServerRunner | None = None
        self.lose = 0
        self.paths: list[str] = []

    async def start(self) -> str:
        """Start and return the URL."""
        self._runner = web.ServerRunner(web.Server(self._pass))
        await self._runner.setup()
        return await listen(self._runner)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        self.paths.append(request.path)
        async with (
            ClientSession() as session,
            session.post(self._target + request.path, data=await request.read()) as answer,
        ):
            body = await answer.read()
            if self.lose > 0:
                self.lose -= 1
                assert request.transport is not None
                request.transport.abort()
                await asyncio.sleep(0)
            return web.Response(status=answer.status, body=body)


async def listen(runner: web.ServerRunner) -> str:
    """Listen on a free port and return the URL."""
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
