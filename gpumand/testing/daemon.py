"""Starts a private gpumand for testing your own programs: the real daemon on a private bus, with a simulated GPU.

::

    def test_my_job_leases_what_it_needs():
        with PrivateGpumand({"comfyui": 13312, "ollama": 6144}, total_mib=16384) as gpumand:
            with lease_sync("comfyui", bus=gpumand.address) as held:
                assert held.loaded

The daemon behaves as in production: requests queue, consumers are evicted and loaded over HTTP, leases end. It needs
dbus-daemon and aiohttp, but no GPU, no systemd and no root privileges. Starting it takes about one second, and one more
per consumer.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from gpumand.testing.bus import PrivateBus

START_SEC = 30.0
STOP_SEC = 10.0

ROUTES = """health = { path = "/health", loaded = "/model_loaded" }
load = { path = "/api/admin/load" }
unload = { path = "/api/admin/unload" }
"""


class PrivateGpumand:
    """The real daemon with simulated consumers; it runs as long as this object is open.

    ``with PrivateGpumand(...) as gpumand`` starts and stops it; ``async with`` does the same without blocking the event
    loop.

    Args:
        consumers: VRAM in MiB of each consumer, by name. Each consumer is a separate process that holds that much of
            the simulated GPU while it is loaded; ``gpumand.testing.consumer`` describes its other features.
        total_mib: size of the simulated GPU in MiB.
        config: further TOML for the configuration, for example ``[consumers.…]`` tables of your own servers, or a
            ``[scheduler]`` table. Without a ``[scheduler]`` table the number of simultaneous leases is not limited.
        simulated_dir: directory in which processes announce their memory (``gpumand.testing.vram_announcement``), for
            your own servers that start before gpumand; by default a folder of this object.
        sample_interval_sec: seconds between readings of the simulated GPU; 0 = the default of the configuration.

    Attributes:
        address: address of the bus, for ``bus=`` of the clients and ``--bus-address`` of gpumanctl; "" until it is
            started.
        urls: base URL of each consumer, by name.
        folder: folder with all files of this gpumand.
        simulated_dir: directory in which processes announce their memory.
    """

    def __init__(
        self,
        consumers: Mapping[str, int],
        *,
        total_mib: int = 24564,
        config: str = "",
        simulated_dir: Path | None = None,
        sample_interval_sec: float = 0.0,
    ) -> None:
        self.address = ""
        self.urls: dict[str, str] = {}
        self.folder = Path()
        self.simulated_dir = simulated_dir or Path()
        self._own_simulated_dir = simulated_dir is None
        self._sizes = dict(consumers)
        self._total_mib = total_mib
        self._config = config
        self._sample_interval_sec = sample_interval_sec
        self._bus = PrivateBus()
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables that make busctl, gdbus, gpumanctl and the clients use this bus as the system bus."""
        return {"DBUS_SYSTEM_BUS_ADDRESS": self.address}

    @property
    def log(self) -> str:
        """The log of the daemon, including earlier runs."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> PrivateGpumand:
        """Start everything and wait until the daemon serves. Raises RuntimeError with its log if it does not."""
        self.folder = Path(tempfile.mkdtemp(prefix="gpumand-private-"))
        try:
            if self._own_simulated_dir:
                self.simulated_dir = self.folder / "simulated"
            self.simulated_dir.mkdir(mode=0o700, exist_ok=True)
            self.address = self._bus.start().address
            for name, mib in self._sizes.items():
                self._servers[name] = self._launch(name, mib)
            self.urls = {name: _url(name, server) for name, server in self._servers.items()}
            (self.folder / "gpumand.toml").write_text(self._toml(), encoding="utf-8")
            self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def start_daemon(self) -> None:
        """Start the daemon, also again, and wait until it serves. Raises RuntimeError if it does not."""
        where = ["--config", str(self.folder / "gpumand.toml"), "--state-dir", str(self.folder / "state")]
        command = [sys.executable, "-m", "gpumand", *where, "--bus-address", self.address]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (self.folder / "log").open("ab") as log:
            path = str(self.folder / "notify")
            Path(path).unlink(missing_ok=True)
            ready.bind(path)
            environ = os.environ | {"NOTIFY_SOCKET": path}
            self._daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environ)
            self._await_ready(ready, self._daemon)

    def stop_daemon(self, number: int = signal.SIGTERM) -> int:
        """Stop the daemon with a signal and return its exit status; use SIGKILL to simulate a crash.

        Leases survive both, because only systemd can inform the daemon that it will not be started again.
        """
        if self._daemon is None:
            raise RuntimeError("the daemon is not running")
        self._daemon.send_signal(number)
        daemon, self._daemon = self._daemon, None
        return daemon.wait(STOP_SEC)

    def close(self) -> None:
        """Kill all processes and remove all files; may be called again."""
        for process in (self._daemon, *self._servers.values()):
            if process is not None:
                process.kill()
                process.communicate()
        self._daemon = None
        self._servers = {}
        self._bus.close()
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PrivateGpumand:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PrivateGpumand:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _launch(self, name: str, mib: int) -> subprocess.Popen[bytes]:
        words = ["--name", name, "--mib", str(mib), "--simulator-dir", str(self.simulated_dir)]
        command = [sys.executable, "-m", "gpumand.testing.consumer", *words]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def _toml(self) -> str:
        """Return the configuration; the caller's part is last, because it may contain tables."""
        scheduler = "" if "[scheduler]" in self._config else "[scheduler]\nconcurrent_leases = 0\n"
        gpu = f'[gpu]\nsource = "simulated"\nsimulated_total_mib = [{self._total_mib}]\n'
        gpu += f'simulated_dir = "{self.simulated_dir}"\n'
        gpu += f"sample_interval_sec = {self._sample_interval_sec}\n" if self._sample_interval_sec else ""
        tables = [
            f'[consumers."{name}"]\nvram_resident_mib = {mib}\nurl = "{self.urls[name]}"\n{ROUTES}'
            for name, mib in self._sizes.items()
        ]
        return "\n".join([scheduler, gpu, *tables, self._config])

    def _await_ready(self, ready: socket.socket, daemon: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SEC
        while time.monotonic() < deadline and daemon.poll() is None:
            readable, _, _ = select.select([ready], [], [], 0.1)
            if readable and b"READY=1" in ready.recv(4096):
                return
        raise RuntimeError(f"gpumand did not start: {self.log.strip() or 'it logged no message'}")


def _url(name: str, server: subprocess.Popen[bytes]) -> str:
    """Return the URL from the first line of a consumer's output. Raises RuntimeError if it ends without one."""
    assert server.stdout is not None
    word, _, rest = server.stdout.readline().decode().partition(" port=")
    if word != "READY":
        raise RuntimeError(f"the consumer {name} did not start")
    return f"http://127.0.0.1:{rest.split()[0]}"
