"""The set-up: a bus, three services and the daemon, each a process of its own; all of it gone at the end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import gpumand
from gpumand.bus.connection import BusConnection
from gpumand.bus.names import BUS_NAME, DBUS, DBUS_PATH
from gpumand.demo.example_services import CAST, Role, configuration
from gpumand.testing.bus import PrivateBus

START_SEC = 20.0
STOP_SEC = 4.0
READY = re.compile(rb"READY port=(\d+) pid=\d+")


class StageFailed(Exception):
    """The set-up could not be made; the message is one line."""


class Stage:
    """Everything that runs; an async context manager.

    Attributes:
        address: of the bus.
        urls: of the services, by consumer name.
        folder: where everything of this run lies, logs included; removed at the end.
    """

    def __init__(self, *, source: str = "simulated", faults: Sequence[str] = ()) -> None:
        """Prepare; nothing runs yet.

        Args:
            source: "simulated", or "nvml" to look at a real device.
            faults: ``NAME:KIND`` for services that are to misbehave, so that the demonstration itself can be tested.
        """
        self.address = ""
        self.urls: dict[str, str] = {}
        self.folder = Path()
        self._source = source
        self._faults = faults
        self._bus = PrivateBus()
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Stage:
        self.folder = Path(tempfile.mkdtemp(prefix="gpumand-demo-"))
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def last_words(self) -> list[str]:
        """The last lines that the daemon logged, for when something went wrong."""
        log = self.folder / "gpumand.log"
        return log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []

    async def _start(self) -> None:
        self._start_bus()
        self.address = self._bus.address
        await asyncio.gather(*(self._start_service(role) for role in CAST))
        config = self.folder / "gpumand.toml"
        config.write_text(configuration(self.urls, self.folder / "vram", source=self._source))
        await self._start_daemon(config)

    def _start_bus(self) -> None:
        """Start the bus so that Ctrl-C does not end it: the daemon is to be stopped first, in order."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._bus.start()
        except (OSError, RuntimeError) as error:
            raise StageFailed(f"the private bus does not start: {error}") from error
        finally:
            signal.signal(signal.SIGINT, before)

    async def _start_service(self, role: Role) -> None:
        """Start a service and learn where it listens."""
        flags = [*role.flags, "--load-steps=40", f"--simulator-dir={self.folder / 'vram'}"]
        flags += [f"--fault={fault.partition(':')[2]}" for fault in self._faults if fault.startswith(f"{role.name}:")]
        process = await self._spawn(
            role.name, "gpumand.testing.consumer", f"--name={role.name}", f"--mib={role.mib}", *flags, piped=True
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_SEC):
                ready = READY.match(await process.stdout.readline())
        except TimeoutError:
            ready = None
        if ready is None:
            raise StageFailed(f"the service {role.name} does not start: {self._log_line(role.name)}")
        self.urls[role.name] = f"http://127.0.0.1:{int(ready.group(1))}"

    async def _start_daemon(self, config: Path) -> None:
        """Start gpumand and wait for its name on the bus: by then everything is in place."""
        bus = await BusConnection.connect(self.address)
        named = asyncio.Event()
        owner = {"sender": DBUS, "path": DBUS_PATH, "interface": DBUS, "member": "NameOwnerChanged", "arg0": BUS_NAME}
        await bus.subscribe(callback=lambda _: named.set(), **owner)
        flags = (f"--config={config}", f"--bus-address={self.address}", f"--state-dir={self.folder / 'state'}")
        daemon = await self._spawn("gpumand", "gpumand", *flags)
        waits = {asyncio.ensure_future(named.wait()), asyncio.ensure_future(daemon.wait())}
        try:
            await asyncio.wait(waits, timeout=START_SEC, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await bus.close()
        if not named.is_set():
            raise StageFailed(f"gpumand does not start: {self._log_line('gpumand')}")

    async def _spawn(self, name: str, module: str, *flags: str, piped: bool = False) -> asyncio.subprocess.Process:
        """Start a module of ours in a process group of its own, so that Ctrl-C reaches only us."""
        inherited = os.environ.get("PYTHONPATH", "")
        path = os.pathsep.join(filter(None, [str(Path(gpumand.__file__).parents[1]), inherited]))
        log = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,
            )
            self._processes.append(process)
        finally:
            os.close(log)
        return process

    def _log_line(self, name: str) -> str:
        """The last thing a process said."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no word from it")

    async def _end(self) -> None:
        """End the daemon first, then the services, then the bus; whatever does not end in time is killed."""
        try:
            for process in reversed(self._processes):
                await _stop(process)
        finally:
            self._bus.close()
            shutil.rmtree(self.folder, ignore_errors=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SEC):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
