"""A gateway process in front of the services of a ``LiveHost``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.integration.live import DEADLINE_SEC, LiveHost, wait_until

UNLIMITED = aiohttp.ClientTimeout(total=60)


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LiveGateway:
    """A gateway process.

    Attributes:
        ports: port of each listener by name.
        process: the process.
    """

    def __init__(self, host: LiveHost, listeners: dict[str, str], keys: str) -> None:
        self.host = host
        self.ports = {name: free_port() for name in listeners}
        self.process: Process | None = None
        self._listeners, self._keys = listeners, keys

    @property
    def log(self) -> str:
        """The log of the process."""
        path = self.host.folder / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def file(self) -> Path:
        """The configuration file."""
        return self.host.folder / "gateway.toml"

    def url(self, name: str) -> str:
        """Base URL of a listener."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def configure(self) -> None:
        """Write the configuration file."""
        own = ""
        if "state_dir" not in self._keys:
            # Jobs that another test's gateway held must not be taken over.
            state = self.host.folder / "gateway-state"
            state.mkdir(exist_ok=True)
            own = f'state_dir = "{state}"\n'
        tables = [f"[gateway]\n{own}{self._keys}\n"]
        for name, keys in self._listeners.items():
            tables.append(f'[gateway.listeners.{name}]\nlisten = "127.0.0.1:{self.ports[name]}"\n{keys}\n')
        self.file.write_text("\n".join(tables), encoding="utf-8")

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        self.configure()
        command = [sys.executable, "-m", "gpumand.gateway", "--config", str(self.file)]
        command += ["--bus-address", self.host.bus.address, "--log-level", "debug"]
        with (self.host.folder / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*command, stderr=log, env=os.environ)
        await wait_until("the gateway listens", self._listens)

    async def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log
        for port in self.ports.values():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
        return True

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the process and wait for its end; returns its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_SEC):
            return await self.process.wait()

    def rss_mib(self) -> float:
        """Resident memory of the process."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@contextlib.asynccontextmanager
async def live_gateway(host: LiveHost, listeners: dict[str, str], keys: str = "") -> AsyncIterator[LiveGateway]:
    """A running gateway; ``listeners`` are their further keys by name, as TOML."""
    gateway = LiveGateway(host, listeners, keys)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.end()
    assert "Traceback" not in gateway.log, gateway.log[-6000:]


@contextlib.asynccontextmanager
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client without a limit on connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=UNLIMITED) as session:
        yield session


async def work(session: aiohttp.ClientSession, url: str, seconds: float = 0.0) -> int:
    """Let a simulated consumer work; returns the status."""
    async with session.post(f"{url}/work", json={"seconds": seconds}) as response:
        await response.read()
        return response.status
