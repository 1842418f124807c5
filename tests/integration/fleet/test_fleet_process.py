"""The process ``gpumand-fleet`` as systemd runs it: its configuration file, signals and notifications."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpumand.domain.errors import AccessDenied, GpumandError
from gpumand.fleet.calls import AcquireCall, PlanCall
from gpumand.fleet.remote_host import AgentClient
from gpumand.testing.daemon import PrivateGpumand
from gpumand.testing.ports import free_ports
from tests.integration.fleet.fleet_hosts import running_daemons, until, until_async

DEADLINE_SEC = 60.0


@pytest.fixture(scope="module")
def gpumand() -> Iterator[PrivateGpumand]:
    with running_daemons(1, {"chat": 14000}) as (started,):
        yield started


class Process:
    """gpumand-fleet with a configuration file, of a host whose only peer does not exist."""

    def __init__(self, folder: Path, bus: str, environ: dict[str, str]) -> None:
        self.file, self.log = folder / "fleet.toml", folder / "log"
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self._notify.settimeout(DEADLINE_SEC)
        self._environ = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")} | environ
        self._folder, self._bus = folder, bus
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, allow: str, more: str = "") -> None:
        """Write the configuration."""
        self.file.write_text(
            f'[fleet]\nhost = "gpu1"\nurl = "{self.url}"\nlisten = "{self.url.removeprefix("http://")}"\n'
            f'allow_plaintext = true\n{more}\n[fleet.peers]\ngpu2 = "http://127.0.0.1:1"\n[fleet.allow]\n{allow}\n'
        )

    def start(self) -> None:
        """Start it and wait until it is ready."""
        program = (
            "import sys\nfrom dataclasses import replace\nfrom pathlib import Path\nfrom gpumand.fleet import process\n"
            "options = process.parse_arguments(sys.argv[2:])\n"
            "process.run(lambda: replace(process.read_config(options), socket=Path(sys.argv[1])))\n"
        )
        command = [sys.executable, "-c", program, str(self._folder / "fleet.sock")]
        command += ["--config", str(self.file), "--bus-address", self._bus]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self._environ)
        self.until_notified(b"READY=1")

    def until_notified(self, word: bytes) -> None:
        """Wait for a notification to systemd."""
        deadline = time.monotonic() + DEADLINE_SEC
        while word not in self._notify.recv(4096):
            assert time.monotonic() < deadline, self.log.read_text()

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended."""
        assert self.process is not None
        return self.process.wait(DEADLINE_SEC)

    def close(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._notify.close()


@pytest.fixture
def make(tmp_path: Path, gpumand: PrivateGpumand) -> Iterator[Callable[..., Process]]:
    """Returns a function that makes a process, which ends with the test."""
    made: list[Process] = []

    def one(**environ: str) -> Process:
        made.append(Process(tmp_path, gpumand.address, environ))
        return made[-1]

    yield one
    for process in made:
        process.close()


async def may_plan(client: AgentClient, url: str) -> bool:
    try:
        return bool(await client.host("gpu1", url).plan(PlanCall("chat")))
    except AccessDenied:
        return False


async def test_reload_takes_over_rights_and_an_invalid_file_changes_nothing(make: Callable[..., Process]) -> None:
    process, client = make(), AgentClient()
    process.write("")
    await asyncio.to_thread(process.start)
    try:
        assert not await may_plan(client, process.url)
        process.write('"*" = ["plan"]')
        process.send(signal.SIGHUP)
        await until_async(lambda: may_plan(client, process.url), "the right is taken over")
        process.write('"*" = ["plam"]')
        process.send(signal.SIGHUP)
        await until(lambda: "the configuration was not taken over" in process.log.read_text(), "it is refused")
        assert await may_plan(client, process.url)
        process.write('"*" = ["plan"]', "ttl_sec = 60")
        process.send(signal.SIGHUP)
        await until(lambda: "systemctl restart gpumand-fleet" in process.log.read_text(), "a restart is advised")
        for _ in range(3):
            await asyncio.to_thread(process.until_notified, b"RELOADING=1")
            await asyncio.to_thread(process.until_notified, b"READY=1")
    finally:
        await client.close()


async def test_second_sigterm_ends_leases_without_waiting(make: Callable[..., Process]) -> None:
    process, client = make(), AgentClient()
    process.write('"*" = ["acquire"]')
    await asyncio.to_thread(process.start)
    try:
        lease = await client.host("gpu1", process.url).acquire(AcquireCall("chat", 60.0))
        process.send(signal.SIGTERM)
        await asyncio.to_thread(process.until_notified, b"STOPPING=1")
        with pytest.raises(GpumandError, match="is stopping: it takes no new requests"):
            await client.host("gpu1", process.url).acquire(AcquireCall("chat", 5.0))
        process.send(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        assert await lease.wait_ended()
    finally:
        await client.close()


def test_watchdog_is_fed(make: Callable[..., Process]) -> None:
    process = make(WATCHDOG_USEC="600000")
    process.write("")
    process.start()
    for _ in range(3):
        process.until_notified(b"WATCHDOG=1")
    process.send(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_invalid_configuration_ends_the_process_with_its_own_status(tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('[fleet]\nurl = "http://gpu1:8447"\nlisen = "0.0.0.0:1"\n')
    command = [sys.executable, "-m", "gpumand.fleet", "--config", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SEC)
    assert done.returncode == 78
    assert "lisen" in done.stderr
    assert "Traceback" not in done.stderr


def test_address_in_use_is_reported_in_one_line(make: Callable[..., Process], tmp_path: Path) -> None:
    process = make()
    process.write("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(process.url.rpartition(":")[2])))
        taken.listen()
        command = [
            sys.executable,
            "-m",
            "gpumand.fleet",
            "--config",
            str(process.file),
            "--bus-address",
            "unix:path=/x",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SEC)
    assert done.returncode == 78
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
