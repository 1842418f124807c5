"""The processes of the demonstration: a private bus, three services and the daemon; all are stopped at the end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import gpumand
from gpumand.bus.connection import BusConnection
from gpumand.bus.names import BUS_NAME, DBUS, DBUS_PATH
from gpumand.demo.example_services import SERVICES, ExampleService, configuration, gateway_configuration
from gpumand.testing.bus import PrivateBus
from gpumand.testing.ports import free_ports

START_SEC = 60.0
STOP_SEC = 4.0
READY = re.compile(rb"READY port=(\d+) pid=\d+")


class EnvironmentFailed(Exception):
    """The environment could not be started; the message is one line."""


class DemoEnvironment:
    """The processes of the demonstration; an async context manager that starts and stops them.

    Attributes:
        address: D-Bus address of the private bus.
        urls: URLs of the services, by consumer name.
        gateway_url: the gateway's own address.
        folder: temporary folder with all files of this run, including logs; removed at the end.
    """

    def __init__(
        self,
        *,
        faults: Sequence[str] = (),
        services: Sequence[ExampleService] = SERVICES,
        has_gateway: bool = False,
    ) -> None:
        """Prepare the environment; processes start on entering the context.

        Args:
            faults: ``NAME:KIND`` for each service that misbehaves, to test the demonstration itself.
            services: the services.
            has_gateway: start the gateway in front of them.
        """
        self.address = ""
        self.urls: dict[str, str] = {}
        self.gateway_url = ""
        self.folder = Path()
        self._services, self._has_gateway = services, has_gateway
        self._faults = faults
        self._bus = PrivateBus()
        self._processes: list[asyncio.subprocess.Process] = []
        self._daemon: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="gpumand-demo-"))
        try:
            await self._start()
        except BaseException:
            # Also on Ctrl-C during the start: __aexit__ is not called if __aenter__ fails.
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def last_log_lines(self) -> list[str]:
        """The last lines of the daemon's log, for error reports."""
        log = self.folder / "gpumand.log"
        return log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []

    async def _start(self) -> None:
        self._start_bus()
        self.address = self._bus.address
        await asyncio.gather(*(self._start_service(service) for service in self._services))
        config = self.folder / "gpumand.toml"
        vram = self.folder / "vram"
        config.write_text(configuration(self.urls, vram, services=self._services))
        await self._start_daemon(config)
        if self._has_gateway:
            await self._start_gateway()

    def _start_bus(self) -> None:
        """Start the bus with SIGINT ignored: on Ctrl-C the daemon must be stopped before its bus."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._bus.start()
        except (OSError, RuntimeError) as error:
            raise EnvironmentFailed(f"the private bus could not be started: {error}") from error
        finally:
            signal.signal(signal.SIGINT, before)

    async def _start_service(self, service: ExampleService) -> None:
        """Start a service and read its port from its first line of output."""
        flags = [*service.flags, "--load-steps=40", f"--simulator-dir={self.folder / 'vram'}"]
        flags += [
            f"--fault={fault.partition(':')[2]}" for fault in self._faults if fault.startswith(f"{service.name}:")
        ]
        process = await self._spawn(
            service.name,
            "gpumand.testing.consumer",
            f"--name={service.name}",
            f"--mib={service.mib}",
            *flags,
            piped=True,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_SEC):
                ready = READY.match(await process.stdout.readline())
        except TimeoutError:
            ready = None
        if ready is None:
            raise EnvironmentFailed(f"the service {service.name} could not be started: {self._log_line(service.name)}")
        self.urls[service.name] = f"http://127.0.0.1:{int(ready.group(1))}"

    async def _start_daemon(self, config: Path) -> None:
        """Start gpumand and wait for its name on the bus, which it requests when it is ready."""
        # Subscribed before the start, so that the name cannot appear unnoticed.
        bus = await BusConnection.connect(self.address)
        name_appeared = asyncio.Event()
        owner = {"sender": DBUS, "path": DBUS_PATH, "interface": DBUS, "member": "NameOwnerChanged", "arg0": BUS_NAME}
        await bus.subscribe(callback=lambda _: name_appeared.set(), **owner)
        flags = (f"--config={config}", f"--bus-address={self.address}", f"--state-dir={self.folder / 'state'}")
        daemon = self._daemon = await self._spawn("gpumand", "gpumand", *flags)
        waits = {asyncio.ensure_future(name_appeared.wait()), asyncio.ensure_future(daemon.wait())}
        try:
            await asyncio.wait(waits, timeout=START_SEC, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await bus.close()
        if not name_appeared.is_set():
            raise EnvironmentFailed(f"gpumand could not be started: {self._log_line('gpumand')}")

    async def _start_gateway(self) -> None:
        """Start the gateway and wait until it listens."""
        port, *ports = free_ports(1 + len(self._services))
        config = self.folder / "gateway.toml"
        names = [one.name for one in self._services]
        config.write_text(gateway_configuration(self._services, port, dict(zip(names, ports, strict=True))))
        flags = (f"--config={config}", f"--bus-address={self.address}")
        state = {"STATE_DIRECTORY": str(self.folder)}
        gateway = await self._spawn("gateway", "gpumand.gateway", *flags, environment=state)
        try:
            async with asyncio.timeout(START_SEC):
                while gateway.returncode is None:
                    if await _is_open(port):
                        break
                    await asyncio.sleep(0.05)
        except TimeoutError:
            gateway.kill()
        if gateway.returncode is not None or not await _is_open(port):
            raise EnvironmentFailed(f"the gateway could not be started: {self._log_line('gateway')}")
        self.gateway_url = f"http://127.0.0.1:{port}"

    async def _spawn(
        self, name: str, module: str, *flags: str, piped: bool = False, environment: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start a module of gpumand in its own process group, so that Ctrl-C reaches only this process."""
        # The processes must import this gpumand, also when it runs from a source tree that is not installed.
        inherited = os.environ.get("PYTHONPATH", "")
        path = os.pathsep.join(filter(None, [str(Path(gpumand.__file__).parents[1]), inherited]))
        log = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module, *flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path} | dict(environment or {}),
                process_group=0,
            )
            self._processes.append(process)
        finally:
            os.close(log)
        return process

    def _log_line(self, name: str) -> str:
        """The last line of a process's log."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "its log is empty")

    async def _end(self) -> None:
        """Stop the daemon, then the services, then the bus; a process that does not stop in time is killed."""
        try:
            for process in reversed(self._processes):
                await _stop(process)
        finally:
            self._bus.close()
            shutil.rmtree(self.folder, ignore_errors=True)


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


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
