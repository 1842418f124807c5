"""Listeners for other hosts: an address that comes later, and a unit that drops the packets of other hosts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import SYSTEMD
from gpumand.config.gateway_keys import hash_of
from gpumand.domain.errors import ConfigInvalid
from gpumand.gateway import listeners
from gpumand.testing.bus import PrivateBus
from tests.integration.gateway.live_gateway import free_port
from tests.integration.live import DEADLINE_SEC, wait_until

NOT_HERE = "203.0.113.7"
"""Of TEST-NET-3 (RFC 5737), which no host has."""
NOT_HERE_6 = "2001:db8::7"
LOCALHOST, BRIDGES = [2, b"\x7f\0\0\0", 8], [2, b"\xac\x10\0\0", 12]
ANY = [[2, bytes(4), 0], [10, bytes(16), 0]]


class Gateway:
    """A gateway process without a daemon, which listens at a port of loopback and at further addresses."""

    def __init__(self, folder: Path, bus: str) -> None:
        self.port, self.folder, self.bus = free_port(), folder, bus
        self.process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(encoding="utf-8")

    def configure(self, *addresses: str) -> None:
        keys = self.folder / "keys.toml"
        keys.write_text(f'[keys.a]\nsha256 = "{hash_of("secret")}"\n', encoding="utf-8")
        listen = ", ".join(f'"{one}"' for one in (f"127.0.0.1:{self.port}", *addresses))
        own = f'keys_file = "{keys}"\nstate_dir = "{self.folder}"\nallow_remote = true\n'
        text = f"[gateway]\n{own}[gateway.listeners.a]\nlisten = [{listen}]\n"
        (self.folder / "gateway.toml").write_text(text, encoding="utf-8")

    async def start(self) -> None:
        command = [sys.executable, "-m", "gpumand.gateway", "--config", str(self.folder / "gateway.toml")]
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, "--bus-address", self.bus, "--log-level", "debug", stderr=log, env=os.environ
            )

    async def answers(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        # A request that the gateway refuses by itself: any other one would wait for gpumand, which does not run.
        writer.write(b"GET /a/../b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return line.startswith(b"HTTP/1.1 400 ")

    async def says(self, text: str) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log
        return text in self.log


@contextlib.asynccontextmanager
async def gateway(folder: Path, bus: str, *addresses: str) -> AsyncIterator[Gateway]:
    made = Gateway(folder, bus)
    made.configure(*addresses)
    await made.start()
    assert made.process is not None
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.process.terminate()
        async with asyncio.timeout(DEADLINE_SEC):
            assert await made.process.wait() == 0, made.log
    assert "Traceback" not in made.log


class Systemd:
    """A systemd whose only unit has the gateway as its main process."""

    def __init__(self, *allow: object) -> None:
        self.allow, self.main_pid = list(allow), 0

    async def handle(self, call: IncomingCall) -> Reply:
        if call.member == "GetUnitByPID":
            self.main_pid = call.body[0]
            return Reply("o", ("/org/freedesktop/systemd1/unit/gateway",))
        answers = {
            "MainPID": Variant("u", self.main_pid),
            "IPAddressAllow": Variant("a(iayu)", self.allow),
            "IPAddressDeny": Variant("a(iayu)", ANY),
        }
        return Reply("v", (answers[call.body[1]],))


@contextlib.asynccontextmanager
async def systemd(*allow: object) -> AsyncIterator[tuple[Systemd, str]]:
    async with PrivateBus() as bus:
        connection, made = await BusConnection.connect(bus.address), Systemd(*allow)
        connection.serve(made.handle)
        await connection.request_name(SYSTEMD)
        try:
            yield made, bus.address
        finally:
            await connection.close()


async def test_address_that_does_not_exist_yet_keeps_no_other_listener_down(tmp_path: Path) -> None:
    absent = [f"{NOT_HERE}:{free_port()}", f"[{NOT_HERE_6}]:{free_port()}"]
    async with gateway(tmp_path, "unix:path=/none", *absent) as made:
        await wait_until("the first address answers", made.answers)
        for address in (NOT_HERE, NOT_HERE_6):
            assert f"{address} is no address of this host at present" in made.log


async def test_reload_adds_an_address_that_does_not_exist_yet(tmp_path: Path) -> None:
    async with gateway(tmp_path, "unix:path=/none") as made:
        await wait_until("the first address answers", made.answers)
        made.configure(f"{NOT_HERE}:{free_port()}")
        assert made.process is not None
        made.process.send_signal(signal.SIGHUP)
        await wait_until("the warning is logged", lambda: made.says(f"{NOT_HERE} is no address of this host"))
        assert await made.answers()


def test_address_that_is_in_use_stays_an_error_even_if_another_one_does_not_exist() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used, pytest.raises(ConfigInvalid, match="already in use"):
        listeners._bound("a", f"127.0.0.1:{used.getsockname()[1]}")
    port = free_port()
    with listeners._bound("a", f"{NOT_HERE}:{port}"), pytest.raises(ConfigInvalid, match="Address already in use"):
        listeners._bound("a", f"{NOT_HERE}:{port}")


async def test_unit_that_drops_packets_of_other_hosts_is_a_warning_with_the_drop_in(tmp_path: Path) -> None:
    async with systemd(LOCALHOST) as (_, bus), gateway(tmp_path, bus, f"0.0.0.0:{free_port()}") as made:
        await wait_until("the warning is logged", lambda: made.says("get no answer at 0.0.0.0"))
        assert "systemctl edit gpumand-gateway, with the lines [Service] and IPAddressAllow=192.168.1.0/24" in made.log
        assert await made.answers()


async def test_unit_with_the_drop_in_is_no_warning(tmp_path: Path) -> None:
    async with systemd(LOCALHOST, BRIDGES) as (asked, bus), gateway(tmp_path, bus, f"0.0.0.0:{free_port()}") as made:
        await wait_until("systemd was asked", lambda: made.says("the unit of the gateway lets other hosts in"))
        made.configure(f"0.0.0.0:{free_port()}", f"{NOT_HERE}:{free_port()}")
        assert made.process is not None
        asked.allow = [LOCALHOST]
        made.process.send_signal(signal.SIGHUP)
        # Without the drop-in, the reload asks again.
        await wait_until("the warning is logged", lambda: made.says(f"get no answer at 0.0.0.0, {NOT_HERE}"))
        assert made.log.count("get no answer at") == 1
