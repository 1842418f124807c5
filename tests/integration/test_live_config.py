"""Reloads of a running daemon: a configuration is applied completely or not at all, and leases stay active."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus.connection import BusError
from gpumand.version import VERSION
from tests.integration.live import Client, LiveHost, bare_host, error_of, table, wait_until

SIZES = {"image": 13312, "voice": 2867, "late": 3000}
ONE_AT_A_TIME = "concurrent_leases = 1\nhealth_interval_sec = 0.2"
AS_MANY_AS_FIT = "concurrent_leases = 0\nhealth_interval_sec = 0.2"
ERROR = "org.gpumand1.Error."
BY = pytest.mark.parametrize("by", ["Reload", "SIGHUP"])


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    """A host with three running consumers, of which image and voice are configured."""
    async with bare_host(tmp_path) as made:
        await asyncio.gather(*(made.launch(name, mib, "--load-sec", "0.05") for name, mib in SIZES.items()))
        made.configure(tables(made, "image", "voice"), ONE_AT_A_TIME)
        await made.start()
        yield made
        assert "Traceback" not in made.log, made.log[-4000:]


def tables(host: LiveHost, *names: str, **more: str) -> str:
    return "".join(table(host.consumers[name], SIZES[name], **more) for name in names)


async def reload(host: LiveHost, client: Client, by: str) -> None:
    if by == "Reload":
        await client.call("Reload")
    else:
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGHUP)


async def names(client: Client) -> set[str]:
    return {one["name"] for one in (await client.status())["consumers"]}


async def has_consumer_names(client: Client, *wanted: str) -> bool:
    return await names(client) == set(wanted)


async def has_logged(host: LiveHost, text: str) -> bool:
    return text in host.log


async def is_residency(client: Client, name: str, wanted: str) -> bool:
    return bool((await client.consumer(name))["residency"] == wanted)


async def has_queued(client: Client, count: int) -> bool:
    return len((await client.status())["queue"]) == count


@BY
async def test_valid_reload_takes_effect_and_keeps_leases(host: LiveHost, by: str) -> None:
    client = await host.client(listen=True)
    lease, _ = await client.acquire("voice")
    asked = client.start_acquire("image")
    await wait_until("image waits for the only slot", has_queued, client, 1)
    await host.consumers["late"].post("/api/admin/load")
    host.configure(tables(host, "image", "late"), AS_MANY_AS_FIT)

    await reload(host, client, by)

    await wait_until("late is known", has_consumer_names, client, "image", "late", "voice")
    await wait_until("late is known to be loaded", is_residency, client, "late", "resident")
    assert (await asked)[1]["loaded"], "lease slots are no longer limited"
    assert {one["id"] for one in (await client.status())["leases"]} == {lease, (await asked)[0]}
    assert (await error_of(client.acquire("voice"))).name == ERROR + "NoSuchConsumer"
    assert (await client.call("Renew", "st", lease, 60_000_000))[0] > 0
    assert client.received("LeaseEnded") == []
    await client.release(lease)
    assert client.received("LeaseEnded") == [(lease, "voice", "released")]
    assert await names(client) == {"image", "late"}, "nothing uses it any more"


@BY
async def test_request_for_a_removed_consumer_ends(host: LiveHost, by: str) -> None:
    client = await host.client()
    lease, _ = await client.acquire("image")
    asked = client.start_acquire("voice")
    await wait_until("voice waits", has_queued, client, 1)
    host.configure(tables(host, "image"), ONE_AT_A_TIME)

    await reload(host, client, by)

    assert (await error_of(asked)).name == ERROR + "NoSuchConsumer"
    assert await names(client) == {"image"}
    await client.release(lease)


BAD: list[tuple[str, str, str]] = [
    ("[scheduler]\ncushon_mib = 1\n", "gpumand.toml:2: scheduler.cushon_mib", "cushion_mib"),
    ("[scheduler]\nconcurrent_leases = true\n", "gpumand.toml:2: scheduler.concurrent_leases", ""),
    ("[scheduler\n", "gpumand.toml:1", ""),
    (
        '[consumers.image]\nvram_resident_mib = 13312\nunit = "image.service"\ncan_coexist_with = ["voise"]\n'
        '[consumers.voice]\nvram_resident_mib = 1\nunit = "voice.service"\n',
        "gpumand.toml:4: consumers.image.can_coexist_with",
        "voice",
    ),
    (
        '[consumers.image]\nvram_resident_mib = -5\nunit = "image.service"\n',
        "gpumand.toml:2: consumers.image.vram_resident_mib",
        "",
    ),
]
BAD_IDS = ["unknown-key", "wrong-type", "no-toml", "unknown-name", "impossible-footprint"]


OWNER_NAMES = {"owner_user", "owner_program"}


def without_moving_parts(status: dict[str, Any]) -> dict[str, Any]:
    """The part of a status that does not change by itself."""
    consumers = [{**one, "since_usec": 0} for one in status["consumers"]]
    # The names of lease owners are looked up in the background after the grant.
    leases = [{key: value for key, value in one.items() if key not in OWNER_NAMES} for one in status["leases"]]
    return {**status, "devices": [], "consumers": consumers, "leases": leases}


@BY
@pytest.mark.parametrize(("text", "where", "hint"), BAD, ids=BAD_IDS)
async def test_invalid_reload_changes_nothing(host: LiveHost, by: str, text: str, where: str, hint: str) -> None:
    client = await host.client(listen=True)
    lease, _ = await client.acquire("voice")
    before = without_moving_parts(await client.status())
    (host.folder / "gpumand.toml").write_text(text)

    if by == "Reload":
        error = await error_of(client.call("Reload"))
        assert error.name == ERROR + "ConfigInvalid"
        assert "\n" not in error.message
        said = error.message
    else:
        await reload(host, client, by)
        await wait_until("the refusal is logged", has_logged, host, "the configuration was not reloaded")
        [said] = [line for line in host.log.splitlines() if "was not reloaded" in line]

    assert where in said
    assert hint in said
    assert without_moving_parts(await client.status()) == before
    busy = await error_of(client.acquire("image", timeout_usec=("t", 0)))
    assert busy.name == ERROR + "Busy", "the old limit is in force"
    await client.release(lease)
    host.configure(tables(host, "image", "voice", "late"), AS_MANY_AS_FIT)
    await client.call("Reload")
    assert await names(client) == set(SIZES)


@BY
async def test_every_problem_is_logged(host: LiveHost, by: str) -> None:
    client = await host.client()
    (host.folder / "gpumand.toml").write_text("[scheduler]\ncushon_mib = 1\nmax_evictions = -1\n")
    with contextlib.suppress(BusError):
        await reload(host, client, by)
    for where in (":2: scheduler.cushon_mib", ":3: scheduler.max_evictions"):
        await wait_until(
            "the problem is logged",
            has_logged,
            host,
            f"the configuration was not reloaded: {host.folder}/gpumand.toml{where}",
        )


async def test_missing_file_is_not_an_empty_configuration(host: LiveHost) -> None:
    client = await host.client()
    (host.folder / "gpumand.toml").unlink()
    error = await error_of(client.call("Reload"))
    assert error.name == ERROR + "ConfigInvalid"
    assert str(host.folder / "gpumand.toml") in error.message
    assert await names(client) == {"image", "voice"}


async def test_many_reloads_at_once(host: LiveHost) -> None:
    client = await host.client()
    lease, _ = await client.acquire("voice")
    for late in (True, False, True):
        host.configure(tables(host, "image", "voice", *["late"] * late), ONE_AT_A_TIME)
        for _ in range(5):
            await reload(host, client, "SIGHUP")
        await asyncio.gather(*(client.call("Reload") for _ in range(5)))
        assert ("late" in await names(client)) is late
    assert [one["id"] for one in (await client.status())["leases"]] == [lease]


# -- at the start --------------------------------------------------------------------------------------------------


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command gpumand to its end; returns exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gpumand", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_start_with_an_invalid_configuration_reports_one_line_per_problem(tmp_path: Path) -> None:
    path = tmp_path / "gpumand.toml"
    path.write_text('[scheduler]\ncushon_mib = 1\n[gpu]\nsource = "nvlm"\n[consumers.a]\nunit = "a"\n')
    status, out, err = await run("--config", str(path), "--bus-address", "unix:path=/nowhere")
    assert (status, out) == (os.EX_CONFIG, ""), "the unit must not restart it"
    lines = err.splitlines()
    assert len(lines) == 3, err
    for line, words in zip(lines, [":2: scheduler.cushon_mib", ":4: gpu.source", ":6: consumers.a.unit"], strict=True):
        assert f"{path}{words}" in line


async def test_start_without_configuration_or_bus_reports_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    status, _, err = await run("--config", str(missing), "--bus-address", "unix:path=/nowhere")
    assert (status, len(err.splitlines())) == (os.EX_CONFIG, 1)
    assert str(missing) in err
    path = tmp_path / "gpumand.toml"
    path.write_text('[gpu]\nsource = "none"\n')
    for address in ("unix:path=/nowhere", "nonsense", ""):
        status, _, err = await run("--config", str(path), "--bus-address", address)
        assert (status, len(err.splitlines())) == (1, 1), err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["--confg", "x"], ["extra"], ["--log-level", "loud"], ["--user", "--bus-address", "x"]]
)
async def test_unknown_argument_is_a_usage_error(arguments: list[str]) -> None:
    status, out, err = await run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: gpumand ")
    assert "Traceback" not in err


async def test_version_and_help_succeed() -> None:
    assert await run("--version") == (0, f"gpumand {VERSION}\n", "")
    status, out, err = await run("--help")
    assert (status, err) == (0, "")
    assert "--config" in out


async def is_measured(client: Client, name: str) -> bool:
    return (await client.consumer(name)).get("measured_mib") is not None


@pytest.fixture
async def automatic_footprint(host: LiveHost) -> LiveHost:
    """A stopped daemon; image was measured, and its footprint is not declared any more."""
    host.configure(tables(host, "image", vram_resident_mib='"auto"', vram_guess_mib="13312") + tables(host, "voice"))
    client = await host.client()
    await client.call("Reload")
    lease, _ = await client.acquire("image")
    await wait_until("image is measured", is_measured, client, "image")
    await client.release(lease)
    await client.call("Evict", "sa{sv}", "image", {})
    await client.close()
    await host.end()
    host.configure(tables(host, "image", vram_resident_mib='"auto"') + tables(host, "voice"), AS_MANY_AS_FIT)
    return host


async def test_loss_of_measurements_only_affects_the_consumer_that_needs_them(automatic_footprint: LiveHost) -> None:
    for file in (automatic_footprint.folder / "state").glob("history.db*"):
        file.unlink()
    await automatic_footprint.start()
    client = await automatic_footprint.client()
    assert "voice" in (await client.acquire("voice"))[1]["consumer"]
    assert (await error_of(client.acquire("image"))).name == ERROR + "ConfigInvalid"
    image = await client.consumer("image")
    assert "vram_resident_mib" not in image
    assert "VRAM requirement unknown" in image["error"]
    await client.close()


async def test_unreadable_archive_is_read_again_when_the_consumer_is_requested(automatic_footprint: LiveHost) -> None:
    path = automatic_footprint.folder / "state" / "history.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        await automatic_footprint.start()
        client = await automatic_footprint.client()
        assert "vram_resident_mib" not in await client.consumer("image")
    assert (await client.acquire("image"))[1]["loaded"]
    assert (await client.consumer("image"))["vram_resident_mib"] == SIZES["image"]
    await client.close()
