"""``gpumanctl calibrate`` restores what ran before: units, and consumers that were evicted for the measurement."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from gpumand.testing.ports import free_port
from tests.integration.cli.ctl import Ctl
from tests.integration.live import LiveHost, bare_host, wait_until
from tests.integration.service_manager.host import FakeHost
from tests.integration.test_bad_units import running_daemon_and_systemd, unit_holding_memory, unit_table

pytestmark = pytest.mark.timeout(180)

WORK = (
    f"{sys.executable} -c 'import os, urllib.request as request; "
    'request.urlopen(os.environ["GPUMAND_ENDPOINT"] + "/work", b"{}")\''
)


def comfyui(host: LiveHost, port: int) -> tuple[dict[str, Any], str]:
    """A unit that loads with its first request, and its table."""
    flags = ["--name", "comfyui", "--mib", "13000", "--port", str(port), "--simulator-dir", str(host.simulator)]
    argv = [sys.executable, "-m", "gpumand.testing.consumer", *flags, "--lazy", "--residual-mib=448"]
    routes = [
        f'url = "http://127.0.0.1:{port}"',
        'health = { path = "/system_stats" }',
        'unload = { path = "/api/admin/unload" }',
        "residual_mib = 448",
    ]
    return {"argv": argv}, unit_table("comfyui", 13000, *routes)


async def calibrated(host: LiveHost, *args: str) -> tuple[int | None, str, str]:
    """Run calibrate, which loads the consumer once for each method; returns exit status, stdout and stderr."""
    process = await Ctl(host.bus.address).start("calibrate", "comfyui", *args)
    async with asyncio.timeout(150):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def is_active(systemd: FakeHost, unit: str) -> bool:
    return await systemd.main_pid(unit) > 0


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("command", [WORK, "true"])
async def test_the_unit_runs_afterwards_if_and_only_if_it_ran_before(tmp_path: Path, ran: bool, command: str) -> None:
    async with bare_host(tmp_path) as host:
        unit, table = comfyui(host, free_port())
        async with running_daemon_and_systemd(tmp_path, host, table, comfyui=unit) as (_, systemd):
            if ran:
                await systemd.call_manager("StartUnit", "ss", "comfyui.service", "replace")
                await wait_until("it runs", is_active, systemd, "comfyui.service")
            code, out, err = await calibrated(host, "-q", "--while", command)
            after = await is_active(systemd, "comfyui.service")
    assert (code, bool(out)) == ((0, True) if command == WORK else (1, False)), err
    assert after is ran


async def test_a_consumer_that_was_evicted_for_the_measurement_is_loaded_again(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        unit, table = comfyui(host, free_port())
        llm = unit_holding_memory(host, "llm", 14000)
        tables = table + unit_table("llm", 14000)
        async with running_daemon_and_systemd(tmp_path, host, tables, comfyui=unit, llm=llm) as (client, systemd):
            await client.call("Load", "sa{sv}", "llm", {})
            code, _, err = await calibrated(host, "--while", WORK)
            assert code == 0, err
            assert (await client.consumer("llm"))["residency"] == "resident"
            assert await is_active(systemd, "comfyui.service") is False
    assert "loading llm again because it was evicted for the measurement" in err
