"""A private bus, a scripted manager on it, and gpumanctl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.cli.ctl import Ctl
from tests.integration.cli.manager import ScriptedManager

CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Bus:
    """A dbus-daemon of the test's own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    async def kill(self) -> None:
        """End it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    path = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=path))
    process = await asyncio.create_subprocess_exec(
        "dbus-daemon",
        f"--config-file={tmp_path / 'bus.conf'}",
        "--nofork",
        "--nopidfile",
        "--print-address=1",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    running = Bus(process, f"unix:path={path}")
    yield running
    await running.kill()


@pytest.fixture
async def manager(bus: Bus) -> AsyncIterator[ScriptedManager]:
    started = await ScriptedManager.start(bus.address)
    yield started
    await started.close()


@pytest.fixture
def ctl(bus: Bus) -> Ctl:
    return Ctl(bus.address)
