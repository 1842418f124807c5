"""``top`` with the real daemon on the fake NVML: readings of the card, graphs, and processes that the driver lists."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.integration.cli.ctl import Ctl
from tests.integration.cli.top_emulator import top
from tests.integration.live import bare_host
from tests.integration.shim_driver import NVML, SIZES, Driver, daemon
from tests.shim import build_shim, have_compiler

pytestmark = pytest.mark.skipif(not have_compiler(), reason="gcc is not installed, so the fake NVML cannot be built")

BRAILLE = [chr(one) for one in range(0x2801, 0x2900)]


async def test_readings_graphs_and_processes_of_the_driver(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host)
        driver.write(utilization=87, temperature=81, temperature_limit=83, power=312_400, power_limit=450_000)
        for name, mib in SIZES.items():
            await host.launch(name, mib)
        environ = driver.environment(build_shim(tmp_path / "lib"))
        async with daemon(host, NVML, environ) as client:
            await client.acquire("image")
            async with top(Ctl(host.bus.address), columns=130, rows=40) as emulator:
                await emulator.shows("87 % busy  81 of 83 °C  312 of 450 W")
                for title in (
                    "memory 13.7 of 24.0 GiB",
                    "busy 87 %",
                    "power 312 of 450 W",
                    "temperature 81 °C, limit 83",
                ):
                    await emulator.shows(title)
                await emulator.until("a graph", lambda lines: any(char in "".join(lines) for char in BRAILLE))
                emulator.screen.type(b"4")
                await emulator.shows("-m gpumand.testing.consumer --name image")
                user = pwd.getpwuid(os.getuid()).pw_name
                await emulator.until(
                    "the process with its user and CPU time",
                    lambda lines: any("▸ " in one and user in one and " %" in one for one in lines),
                )
                driver.write(temperature=50, utilization=3)
                await emulator.shows("3 % busy  50 of 83 °C")
