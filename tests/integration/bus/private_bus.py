"""A private bus with gpumand's real policy on top of the system bus's defaults, called with busctl and gdbus."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumand.testing.bus import PrivateBus

POLICY = Path(__file__).parents[3] / "dbus" / "org.gpumand1.conf"
DEADLINE_SEC = 30.0
OTHER_UID = 65534

DOCTYPE = (
    '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
)
# The rules of the system bus's default context.
CONFIG = (
    DOCTYPE
    + """<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <limit name="reply_timeout">600000</limit>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  <include>{policy}</include>
  {more}
</busconfig>
"""
)


@dataclass(frozen=True)
class CommandResult:
    """The result of a command."""

    returncode: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the data of ``busctl --json=short call`` without types."""
        assert self.returncode == 0, self.err
        return [without_types(item) for item in json.loads(self.out)["data"]]


def without_types(item: Any) -> Any:
    """Replace busctl's {"type", "data"} pairs by their data."""
    if isinstance(item, dict):
        if set(item) == {"type", "data"}:
            return without_types(item["data"])
        return {key: without_types(value) for key, value in item.items()}
    return [without_types(part) for part in item] if isinstance(item, list) else item


async def run(*command: str, uid: int | None = None, env: dict[str, str] | None = None) -> CommandResult:
    """Run a command to its end, as another user if ``uid`` is given."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        user=uid,
        group=uid,
        extra_groups=[] if uid is not None else None,
        env=os.environ | (env or {}),
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return CommandResult(process.returncode or 0, out.decode(), err.decode())


class PolicyBus:
    """A running dbus-daemon with gpumand's policy, called with command line tools."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def busctl(self, *arguments: str, uid: int | None = None) -> CommandResult:
        return await run("busctl", f"--address={self.address}", "--json=short", *arguments, uid=uid)

    async def call(self, member: str, *arguments: str, uid: int | None = None) -> CommandResult:
        """Call a method of the Manager with busctl."""
        where = ("org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager")
        return await self.busctl("call", *where, member, *arguments, uid=uid)

    async def gdbus(self, *arguments: str, uid: int | None = None) -> CommandResult:
        return await run("gdbus", *arguments, uid=uid, env={"DBUS_SESSION_BUS_ADDRESS": self.address})

    @asynccontextmanager
    async def listener(self, *command: str) -> AsyncIterator[Lines]:
        """Run a command that keeps writing lines, with this bus as its session bus; it is killed on exit."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"DBUS_SESSION_BUS_ADDRESS": self.address},
        )
        assert process.stdout is not None
        try:
            yield Lines(process.stdout)
        finally:
            process.kill()
            await process.wait()


class Lines:
    """The output of a running command."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def until(self, wanted: str) -> list[str]:
        """Read up to the line that contains ``wanted``, and return all lines read; fails after a deadline."""
        seen: list[str] = []
        async with asyncio.timeout(DEADLINE_SEC):
            while not seen or wanted not in seen[-1]:
                line = await self._stream.readline()
                assert line, f"ended without {wanted!r}: {seen}"
                seen.append(line.decode())
        return seen


@asynccontextmanager
async def policy_bus(more: str = "") -> AsyncIterator[PolicyBus]:
    """Run a bus. Its folder is accessible to other users, so that callers can run as another user.

    ``more`` is appended to the configuration of the bus: policies for other services.
    """
    folder = Path(tempfile.mkdtemp(prefix="gpumand-policy-bus-"))
    try:
        async with PrivateBus(config=_write_config(folder, more)) as running:
            yield PolicyBus(running.address)
    finally:
        shutil.rmtree(folder)


def _write_config(folder: Path, more: str) -> Path:
    folder.chmod(0o755)
    user = pwd.getpwuid(os.getuid()).pw_name
    policy = folder / "org.gpumand1.conf"
    policy.write_text(POLICY.read_text().replace('user="_gpumand"', f'user="{user}"'))
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(socket=folder / "bus", policy=policy, more=more))
    return config
