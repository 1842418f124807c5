"""Starts a private fleet for demonstrations, benchmarks and tests: several daemons, their agents, and an etcd.

::

    with PrivateFleet({"chat": 14000, "image": 13000}, hosts=3) as fleet:
        subprocess.run(["gpumanctl", "--fleet", "status"], env=os.environ | fleet.environ(1))

Every host has a simulated GPU and a bus of its own. Without etcd on this machine the hosts ask each other.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

from gpumand.fleet.settings import EtcdConfig, FleetConfig, Right, TlsFiles
from gpumand.fleet.tls import client_context
from gpumand.testing.daemon import PrivateGpumand
from gpumand.testing.fleet_certificates import ADDRESS, issue
from gpumand.testing.ports import free_ports

FLEET, ETCD_NAME = "demo", "etcd"
START_SEC = 60.0
ATTEMPTS = 5
"""Another process can take a free port before etcd does."""

MEMORY_FOLDER = Path("/dev/shm")
"""A file system in memory: etcd waits for its disk with every write."""

UNIT_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""As in gpumand-fleet.service."""

EVERYTHING = {"*": frozenset(str(one) for one in Right)}


class FleetProcess:
    """``gpumand-fleet`` as a process of its own, with a configuration that goes to it as Python.

    Args:
        config: the configuration; the log is beside its socket.

    Attributes:
        log: its log file.
    """

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self.log = config.socket.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id. Raises RuntimeError if it was not started."""
        if self._process is None:
            raise RuntimeError("gpumand-fleet is not started")
        return self._process.pid

    def start(self) -> FleetProcess:
        """Start it and wait until it serves. Raises RuntimeError with its log if it does not."""
        path = self.config.socket.with_suffix(".notify")
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            ready.bind(str(path))
            self._process = _launch(self.command(_program(self.config)), path, log)
            deadline = time.monotonic() + START_SEC
            while time.monotonic() < deadline and self._process.poll() is None:
                readable, _, _ = select.select([ready], [], [], 0.1)
                if readable and b"READY=1" in ready.recv(4096):
                    return self
        raise RuntimeError(f"gpumand-fleet did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def command(self, program: str) -> list[str]:
        """The command that runs a program in Python."""
        return [sys.executable, "-c", program]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def wait(self, timeout_sec: float = START_SEC) -> int:
        """Wait until it has ended, and return its status. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout_sec)

    def close(self) -> None:
        """Kill it; may be called again."""
        self.kill(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


def _launch(command: list[str], notify: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    environ = os.environ | UNIT_ENVIRONMENT | {"NOTIFY_SOCKET": str(notify)}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=environ)


def _program(config: FleetConfig) -> str:
    """A program that runs the process with this configuration."""
    fields = {name: getattr(config, name) for name in FleetConfig.__dataclass_fields__}
    return (
        "from pathlib import PosixPath\n"
        "from gpumand.http.aiohttp_import import import_aiohttp\n"
        "import_aiohttp()\n"
        "from gpumand.bus.dbus_fast_import import import_dbus_fast\n"
        "import_dbus_fast()\n"
        "from gpumand.fleet.process import run\n"
        "from gpumand.fleet.settings import EtcdConfig, FleetConfig, TlsFiles\n"
        "from gpumand.log.logging_setup import setup_logging\n"
        "setup_logging('info')\n"
        f"run(lambda: FleetConfig(**{fields!r}))\n"
    )


class PrivateFleet:
    """Several hosts on this machine; they run as long as this object is open.

    Args:
        consumers: VRAM in MiB of each consumer, by name; every host has all of them.
        hosts: number of hosts, which are named gpu1, gpu2 and so on.
        total_mib: size of each simulated GPU in MiB.
        ttl_sec: with etcd, seconds after which the row of a host that does not report is removed.
        tls: encrypt the connections between the hosts and to etcd, with certificates on both sides.

    Attributes:
        daemons: the gpumand of each host.
        agents: the gpumand-fleet of each host.
        has_etcd: whether the fleet has a store.
    """

    def __init__(
        self,
        consumers: Mapping[str, int],
        *,
        hosts: int = 3,
        total_mib: int = 24564,
        ttl_sec: float = 10.0,
        tls: bool = False,
    ) -> None:
        self.daemons = [PrivateGpumand(consumers, total_mib=total_mib) for _ in range(hosts)]
        self.agents: list[FleetProcess] = []
        self.has_etcd = shutil.which("etcd") is not None
        self._ttl_sec, self._is_tls = ttl_sec, tls
        self._files: dict[str, TlsFiles] = {}
        self._etcd: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def environ(self, host: int) -> dict[str, str]:
        """Environment variables with which gpumanctl --fleet uses a host, counted from 1."""
        return {"GPUMAND_FLEET": str(self.agents[host - 1].config.socket)}

    def start(self) -> PrivateFleet:
        """Start everything and wait until all agents serve. Raises RuntimeError."""
        self._folder = Path(tempfile.mkdtemp(prefix="gpumand-fleet-", dir=_memory_folder()))
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(PrivateGpumand.start, self.daemons))
            if self._is_tls:
                names = [f"gpu{number}" for number in range(1, len(self.daemons) + 1)]
                self._files = issue(self._folder, FLEET, [*names, ETCD_NAME])
            etcd = EtcdConfig((self._start_etcd(),)) if self.has_etcd else None
            configs = [self._config(number, etcd) for number in range(1, len(self.daemons) + 1)]
            self.agents = [FleetProcess(one) for one in _with_peers(configs)]
            with ThreadPoolExecutor() as pool:
                list(pool.map(FleetProcess.start, self.agents))
        except BaseException:
            self.close()
            raise
        return self

    def cut_power(self, host: int) -> None:
        """Stop a host as a power failure does: its connections are not closed, and no sign of life comes any more."""
        self.agents[host - 1].kill(signal.SIGSTOP)
        self.daemons[host - 1].stop_daemon(signal.SIGKILL)

    def close(self) -> None:
        """Kill everything and remove all files; may be called again."""
        for agent in self.agents:
            agent.close()
        for daemon in self.daemons:
            daemon.close()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
            self._etcd = None
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PrivateFleet:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _config(self, number: int, etcd: EtcdConfig | None) -> FleetConfig:
        (port,) = free_ports(1)
        return FleetConfig(
            fleet=FLEET,
            host=f"gpu{number}",
            machine_id=f"{number:032x}",
            url=f"{self._scheme}://{ADDRESS}:{port}",
            tls=self._files.get(f"gpu{number}"),
            listen=(f"127.0.0.1:{port}",),
            socket=self._folder / f"gpu{number}.sock",
            bus=self.daemons[number - 1].address,
            etcd=etcd,
            ttl_sec=self._ttl_sec,
            allow=EVERYTHING,
        )

    @property
    def _scheme(self) -> str:
        return "https" if self._is_tls else "http"

    def _start_etcd(self) -> str:
        """Start etcd and return its URL. Raises RuntimeError."""
        for _ in range(ATTEMPTS):
            url, peer = (f"http://{ADDRESS}:{port}" for port in free_ports(2))
            files = self._files.get(ETCD_NAME)
            url = url if files is None else url.replace("http:", "https:")
            command = ["etcd", "--name=one", f"--data-dir={self._folder}/etcd", f"--listen-client-urls={url}"]
            command += [f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}"]
            command += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}"]
            command += [] if files is None else _etcd_options(files)
            with (self._folder / "etcd.log").open("ab") as log:
                self._etcd = subprocess.Popen(command, stdout=log, stderr=log)
            if _answers(self._etcd, url, None if files is None else client_context(files)):
                return url
            shutil.rmtree(self._folder / "etcd", ignore_errors=True)
        raise RuntimeError(f"etcd did not start: {(self._folder / 'etcd.log').read_text(errors='replace')[-2000:]}")


def _with_peers(configs: list[FleetConfig]) -> list[FleetConfig]:
    """The configurations with the other hosts as peers, for those without a store."""
    urls = {one.host: one.url for one in configs}
    peers = {host: {name: url for name, url in urls.items() if name != host} for host in urls}
    return [one if one.etcd else replace(one, peers=peers[one.host]) for one in configs]


def _etcd_options(files: TlsFiles) -> list[str]:
    names = {"--trusted-ca-file": files.ca, "--cert-file": files.certificate, "--key-file": files.key}
    return ["--client-cert-auth", *(f"{name}={path}" for name, path in names.items())]


def _answers(process: subprocess.Popen[bytes], url: str, tls: ssl.SSLContext | None) -> bool:
    """Wait until etcd answers; False if it has ended."""
    deadline = time.monotonic() + START_SEC
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5, context=tls) as answer:
            if b"true" in answer.read(1000):
                return True
        time.sleep(0.05)
    return False


def _memory_folder() -> Path | None:
    return MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
