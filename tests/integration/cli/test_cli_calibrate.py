"""``gpumanctl calibrate`` against real consumers: measurements, output and leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.ctl import Ctl, Screen, finished
from tests.integration.cli.world import world
from tests.integration.live import LiveHost, table, wait_until
from tests.waiting import until_ended

SAMPLED = 'source = "simulated"\nsimulated_total_mib = [24564]\nsample_interval_sec = 0.25\nsimulated_dir = "{}"'

pytestmark = pytest.mark.timeout(120)


async def restart_with(host: LiveHost, name: str, mib: int, **more: str) -> None:
    """Restart the daemon with frequent VRAM readings and this consumer."""
    await host.end()
    tables = table(host.consumers[name], mib, **more) + table(host.consumers["llm"], 14336)
    host.configure(tables, gpu=SAMPLED.format(host.simulator))
    await host.start()


async def status(ctl: Ctl) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((await ctl("--json")).out)
    return document


async def calibrated(ctl: Ctl, *args: str) -> Any:
    process = await ctl.start("calibrate", *args)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_wrong_footprint_is_measured_and_printed_as_toml(tmp_path: Path) -> None:
    async with world(tmp_path, "--residual-mib=300", "--load-sec=0.5") as (host, ctl):
        await restart_with(host, "mvoice", 2000, residual_mib="300")
        code, out, err = await calibrated(ctl, "mvoice")
        after = await status(ctl)
    assert code == 0, err
    written = tomllib.loads(out)
    assert written == {"consumers": {"mvoice": written["consumers"]["mvoice"]}}
    assert written["consumers"]["mvoice"] == {"vram_resident_mib": 2880, "residual_mib": 320, "load_timeout_sec": 30}
    assert out.startswith("# measured: 2867 MiB at rest, 2867 MiB at peak; footprint so far: 2000 MiB\n# loaded in ")
    assert "# http freed 2567 MiB in" in out
    assert "acquiring mvoice" in err
    assert "mvoice holds 2.8 GiB at rest" in err
    assert after["leases"] == []


async def test_json_output_has_every_measurement_and_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await restart_with(host, "mvoice", 2867)
        assert (await ctl("load", "mvoice")).code == 0
        code, out, err = await calibrated(ctl, "mvoice", "--json", "-q")
        after = await status(ctl)
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["steady_mib"], document["peak_mib"], document["declared_mib"]) == (2867, 2867, 2867)
    assert [one["method"] for one in document["unloads"]] == ["http"]
    assert document["unloads"][0]["residual_mib"] == 0
    assert len(document["loads_usec"]) == 1, "it was resident, so the only measured load is the one at the end"
    assert document["settings"] == {"vram_resident_mib": 2880, "load_timeout_sec": 30}
    assert next(one for one in after["consumers"] if one["name"] == "mvoice")["residency"] == "resident"


async def test_an_eviction_that_frees_nothing_is_reported_and_the_rest_is_measured(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await host.end()
        await host.consumers["mvoice"].fault("lying-unload")
        gpu = SAMPLED.format(host.simulator)
        host.configure(table(host.consumers["mvoice"], 2867), "settle_timeout_sec = 1\nconcurrent_leases = 0", gpu)
        await host.start()
        code, out, _ = await calibrated(ctl, "mvoice")
    assert code == 0
    assert "# http failed: " in out
    assert tomllib.loads(out)["consumers"]["mvoice"]["vram_resident_mib"] == 2880


async def test_residual_memory_is_measured_although_the_eviction_counts_as_failed(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, "--residual-mib=1000") as (host, ctl):
        await host.end()
        gpu = SAMPLED.format(host.simulator)
        host.configure(table(host.consumers["mvoice"], 2867), "settle_timeout_sec = 1\nconcurrent_leases = 0", gpu)
        await host.start()
        code, out, _ = await calibrated(ctl, "mvoice")
        (host.folder / "gpumand.toml").write_text(
            (host.folder / "gpumand.toml").read_text() + "residual_mib = 1024\n", encoding="utf-8"
        )
        assert (await ctl("reload")).code == 0
        after = await ctl("evict", "mvoice")
    assert code == 0
    assert "# http freed 1867 MiB, 1000 MiB remained, and failed: " in out
    assert tomllib.loads(out)["consumers"]["mvoice"]["residual_mib"] == 1024
    assert after.code == 0, after.err


async def test_calibrate_waits_for_a_request_to_a_lazy_consumer(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await restart_with(host, "mvoice", 2867, load="")
        process = await ctl.start("calibrate", "mvoice")
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"send it a request now" not in (line := await process.stderr.readline()):
                assert line, "it ended"
        assert host.consumers["mvoice"].url.encode() in line
        await host.consumers["mvoice"].post("/work", seconds=0.1)
        result = await finished(process)
    assert result.code == 0
    assert tomllib.loads(result.out)["consumers"]["mvoice"]["vram_resident_mib"] == 2880


async def test_a_lazy_consumer_without_a_request_times_out(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await restart_with(host, "mvoice", 2867, load="")
        result = await ctl("calibrate", "mvoice", "--timeout", "1s", "-q")
        after = await status(ctl)
    assert (result.code, result.out) == (1, "")
    assert (
        result.err
        == "gpumanctl: timed out after 1 s waiting for mvoice to allocate memory. Wait longer with --timeout\n"
    )
    assert after["leases"] == []


WORK = (
    f"{sys.executable} -c 'import os, urllib.request as request; "
    'request.urlopen(os.environ["GPUMAND_ENDPOINT"] + "/work", b"{{\\"seconds\\": {}}}")'
    "'; echo done"
)
"""A shell command that sends a request of this many seconds."""


@contextlib.asynccontextmanager
async def idle_server(folder: Path, idle_mib: int = 448) -> AsyncIterator[tuple[LiveHost, Ctl]]:
    """A server of 2867 MiB that loads with its first request, and holds a CUDA context until then."""
    async with world(folder, f"--residual-mib={idle_mib}") as (host, ctl):
        await host.consumers["mvoice"].post("/work", seconds=0)
        await host.consumers["mvoice"].post("/api/admin/unload")
        busy = '{ path = "/health", pointers = ["/working"] }'
        await restart_with(host, "mvoice", 13000, load="", residual_mib=str(idle_mib), busy=busy)
        yield host, ctl


@pytest.mark.parametrize("options", [(), ("--while", "true")])
async def test_the_idle_context_of_a_lazy_consumer_is_not_printed_as_its_footprint(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    async with idle_server(tmp_path) as (_, ctl):
        result = await ctl("calibrate", "mvoice", "--timeout", "7s", "-q", *options)
        after = await status(ctl)
    assert (result.code, result.out) == (1, "")
    when = "while CMD ran" if options else "within 7 s"
    assert result.err.startswith(f"gpumanctl: no load of mvoice was seen {when}: it held at most 448 MiB")
    assert "--while CMD" in result.err
    assert after["leases"] == []


async def test_a_lazy_consumer_is_measured_while_a_command_uses_it(tmp_path: Path) -> None:
    async with idle_server(tmp_path) as (_, ctl):
        code, out, err = await calibrated(ctl, "mvoice", "--while", WORK.format("0.2"))
    assert code == 0, err
    settings = tomllib.loads(out)["consumers"]["mvoice"]
    assert (settings["vram_resident_mib"], settings["residual_mib"]) == (2880, 448)
    assert "done" in err.splitlines(), "the output of the command is not mixed with the configuration"


async def test_a_command_that_fails_ends_the_calibration(tmp_path: Path) -> None:
    async with idle_server(tmp_path) as (_, ctl):
        result = await ctl("calibrate", "mvoice", "-q", "--while", "exit 3")
        after = await status(ctl)
    assert (result.code, result.out) == (1, "")
    assert result.err == "gpumanctl: CMD failed with exit status 3; nothing was measured\n"
    assert after["leases"] == []


async def test_a_signal_ends_the_command_too(tmp_path: Path) -> None:
    running = tmp_path / "running"
    async with idle_server(tmp_path) as (_, ctl):
        command = f"echo $$ > {running}.new; mv {running}.new {running}; sleep 100"
        process = await ctl.start("calibrate", "mvoice", "-q", "--while", command)

        async def runs() -> bool:
            return running.exists()

        await wait_until("the command runs", runs)
        process.send_signal(signal.SIGTERM)
        result = await finished(process)
        await until_ended(int(running.read_text()))
    assert result.code == -signal.SIGTERM
    assert (result.out, "Traceback" in result.err) == ("", False)


async def test_work_is_neither_measured_as_rest_nor_interrupted(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        busy = '{ path = "/health", pointers = ["/working"] }'
        await restart_with(host, "mvoice", 2867, busy=busy)
        mvoice = host.consumers["mvoice"]
        work = asyncio.create_task(mvoice.post("/work", seconds=9))
        code, out, err = await calibrated(ctl, "mvoice")
        assert work.done()
        health = await mvoice.get("/health")
        await work
    assert code == 0, err
    assert "# http freed 2867 MiB" in out
    assert health["interrupted"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_no_lease_remains_after_a_signal(tmp_path: Path, number: int) -> None:
    async with world(tmp_path) as (host, ctl):
        await restart_with(host, "mvoice", 2867)
        process = await ctl.start("calibrate", "mvoice")

        async def has_leases(wanted: int) -> bool:
            return len((await status(ctl))["leases"]) == wanted

        await wait_until("it has a lease", has_leases, 1)
        process.send_signal(number)
        result = await finished(process)
        await wait_until("it has none", has_leases, 0)
    assert result.out == ""
    assert "Traceback" not in result.err


async def test_a_revoked_lease_ends_the_calibration(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await restart_with(host, "mvoice", 2867)
        process = await ctl.start("calibrate", "mvoice", "-q")

        async def is_leased() -> bool:
            return bool((await status(ctl))["leases"])

        await wait_until("it has a lease", is_leased)
        assert (await ctl("evict", "mvoice", "--force")).code == 0
        result = await finished(process)
    assert (result.code, result.out) == (1, "")
    assert result.err == "gpumanctl: the lease has ended (revoked); nothing was measured\n"


async def test_unknown_consumers_and_missing_readings_are_errors(ctl: Ctl, tmp_path: Path) -> None:
    async with world(tmp_path) as (host, other):
        near = await other("calibrate", "mvoic")
        await host.end()
        host.configure(table(host.consumers["mvoice"], 2867), gpu='source = "none"')
        await host.start()
        unreadable = await other("calibrate", "mvoice")
    assert (near.code, near.err) == (4, "gpumanctl: no consumer is named 'mvoic'; did you mean mvoice?\n")
    assert (unreadable.code, unreadable.out) == (1, "")
    assert "cannot measure mvoice: its memory use is unknown" in unreadable.err
    assert (await ctl("calibrate", "mvoice", "--timeout", "0")).code == 2


async def test_live_progress_leaves_only_the_final_lines_on_a_terminal(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await restart_with(host, "mvoice", 2867)
        screen = await Screen.start(ctl, "calibrate", "mvoice", columns=100)
        await screen.wait_for("peak so far")
        await screen.wait_for("load_timeout_sec")
        assert await screen.end() == 0
    shown = [line.rpartition("\x1b[K")[2] for line in screen.text.split("\r\n")]
    assert not any("peak so far" in line for line in shown)
