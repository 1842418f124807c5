"""Two daemons on one host that manage the same GPUs without knowing of each other."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gpumand.testing.bus import PrivateBus
from tests.integration.live import wait_until


async def test_daemon_that_starts_later_warns(tmp_path: Path) -> None:
    (tmp_path / "gpumand.toml").write_text('[gpu]\nsource = "nvml"\n')
    first = await asyncio.create_subprocess_exec("gpumand", "60", executable="/bin/sleep")
    async with PrivateBus() as bus:
        environ = os.environ | {"DBUS_SESSION_BUS_ADDRESS": bus.address}
        arguments = ("--user", "--config", str(tmp_path / "gpumand.toml"), "--state-dir", str(tmp_path / "state"))
        with (tmp_path / "log").open("wb") as log:
            second = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gpumand", *arguments, env=environ, stderr=log
            )

        async def has_said() -> bool:
            said = (tmp_path / "log").read_text()
            assert second.returncode is None, said
            return f"another gpumand manages the same GPUs (the system daemon, pid {first.pid})" in said

        try:
            await wait_until("the second daemon warns of the first", has_said)
        finally:
            for process in (first, second):
                process.terminate()
                await process.wait()
