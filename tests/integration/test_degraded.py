"""The real daemon with a driver that is missing, fails, lies or hangs: it reports that, answers fast and continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Client, LiveHost, error_of, wait_until
from tests.integration.shim_driver import SIZES, TOTAL_MIB, Driver, built_library, daemon, host_with_consumers

READING_KEYS = {"total_mib", "used_mib", "free_mib", "foreign_mib"}
CONNECTION = ("s", "connection")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_library(tmp_path_factory)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    """A host with two consumers that do not fit together, and without a daemon."""
    async with host_with_consumers(tmp_path) as made:
        yield made


def first_word(text: str) -> str:
    return text.partition(": ")[0]


def announced_degraded(client: Client) -> list[str]:
    """The first word of every value of Degraded announced by PropertiesChanged."""
    values = [changed["Degraded"] for _, changed, _ in client.received("PropertiesChanged") if "Degraded" in changed]
    return [first_word(value.rpartition("device 0: ")[2]) for value in values]


async def has_degraded(client: Client, expected: str) -> bool:
    degraded = (await client.status())["degraded"]
    return (
        first_word(degraded.rpartition("device 0: ")[2]) == expected and await client.property("Degraded") == degraded
    )


async def device(client: Client) -> dict[str, Any]:
    [entry] = (await client.status())["devices"]
    return dict(entry)


async def check_scheduling_by_footprints(client: Client) -> None:
    """Loads follow the declared footprints and the configured total, and evictions are reported as unverified."""
    lease, grant = await client.acquire("image", lifetime=CONNECTION)
    assert grant["loaded"]
    busy = await error_of(client.acquire("voice", timeout_usec=("t", 0)))
    assert busy.name == "org.gpumand1.Error.Busy", "the two consumers do not fit together"
    await client.release(lease)
    lease, grant = await client.acquire("voice", lifetime=CONNECTION)
    assert (grant["loaded"], grant["evicted"]) == (True, ["image"])
    # A consumer that had not been probed yet counts as possibly resident, so the first load may have evicted it too.
    evictions = [event for event in client.received("EvictionOccurred") if event[0] == "image"]
    [(_, _, freed_mib, _, _, details)] = evictions
    assert (freed_mib, details["verified"]) == (0, False)
    await client.release(lease)


Failure = Callable[[Driver], None]
UNAVAILABLE = "org.gpumand1.Error.DeviceUnavailable"
NAMED = {"device": '"0"'}
FAILURES: list[tuple[str, Failure, Failure]] = [
    ("driver-mismatch", lambda one: one.write(kernel=2), lambda one: one.write(kernel=1)),
    ("driver-not-loaded", lambda one: one.write(init_error=9), lambda one: one.write(init_error=0)),
    ("nvml-error", lambda one: one.write(init_error=4), lambda one: one.write(init_error=0)),
    ("nvml-library-missing", lambda one: one.write(init_error=12), lambda one: one.write(init_error=0)),
]


@pytest.mark.parametrize(("expected", "fail", "repair"), FAILURES, ids=[one[0] for one in FAILURES])
async def test_driver_that_cannot_be_initialized(
    host: LiveHost, library: Path, expected: str, fail: Failure, repair: Failure
) -> None:
    """By declared footprints, since the consumers name the device and its size is configured."""
    driver = Driver(host)
    fail(driver)
    async with daemon(host, environ=driver.environment(library), **NAMED) as client:
        assert await has_degraded(client, expected)
        entry = await device(client)
        assert (entry["total_mib"], entry.keys() & READING_KEYS) == (TOTAL_MIB, {"total_mib"}), (
            "unknown values are left out"
        )
        await check_scheduling_by_footprints(client)
        repair(driver)
        await wait_until("the driver is not degraded", has_degraded, client, "")
        assert announced_degraded(client)[-1] == ""
        entry = await device(client)
        assert entry.keys() >= READING_KEYS - {"foreign_mib"}
        assert (entry["uuid"], entry["used_mib"], entry["error"]) == ("GPU-a", SIZES["voice"], "")


@pytest.mark.parametrize("init_error", [4, 9, 18, 999])
async def test_driver_that_was_never_read_gets_no_load(host: LiveHost, library: Path, init_error: int) -> None:
    driver = Driver(host)
    driver.write(init_error=init_error)
    async with daemon(host, environ=driver.environment(library)) as client:
        for timeout_usec in (0, 1_000_000):
            refused = await error_of(client.acquire("image", timeout_usec=("t", timeout_usec)))
            assert refused.name == UNAVAILABLE
        waiting = client.start_acquire("image") if init_error != 18 else None
        assert (await host.consumers["image"].health())["vram_mib"] == 0
        driver.write(init_error=0)
        assert (await (waiting or client.acquire("image")))[1]["loaded"]


async def test_missing_library_without_a_configured_total(host: LiveHost) -> None:
    """Without any VRAM size nothing is evicted on a guess."""
    empty = host.folder / "empty"
    empty.mkdir()
    gpu = 'source = "nvml"\nsample_interval_sec = 0.2'
    async with daemon(host, gpu, {"LD_LIBRARY_PATH": str(empty)}) as client:
        assert await has_degraded(client, "nvml-library-missing")
        assert (await device(client)).keys().isdisjoint(READING_KEYS)
        for name in SIZES:
            await client.call("Evict", "sa{sv}", name, {})
        _, grant = await client.acquire("voice")
        assert (grant["loaded"], grant["evicted"]) == (True, [])


RUNNING: list[tuple[str, Failure, Failure]] = [
    ("gpu-lost", lambda one: one.write(lost=True), lambda one: one.write(lost=False)),
    ("memory-info-not-supported", lambda one: one.write(memory_error=3), lambda one: one.write(memory_error=0)),
    ("nvml-error", lambda one: one.write(memory_error=999), lambda one: one.write(memory_error=0)),
    ("nvml-error", lambda one: one.write(generation=1), lambda one: None),
    (
        "driver-not-loaded",
        lambda one: one.write(call_error=9, init_error=9),
        lambda one: one.write(call_error=0, init_error=0),
    ),
]


@pytest.mark.parametrize(
    ("expected", "fail", "repair"), RUNNING, ids=[f"{at}-{one[0]}" for at, one in enumerate(RUNNING)]
)
async def test_driver_that_fails_later(
    host: LiveHost, library: Path, expected: str, fail: Failure, repair: Failure
) -> None:
    driver = Driver(host)
    async with daemon(host, environ=driver.environment(library)) as client:
        assert await has_degraded(client, "")
        lease, _ = await client.acquire("image", lifetime=CONNECTION)
        fail(driver)
        await wait_until("the degradation is announced", has_announced, client, expected)
        repair(driver)
        await wait_until("the driver is not degraded any more", has_degraded, client, "")
        assert announced_degraded(client)[-1] == ""
        assert [one["id"] for one in (await client.status())["leases"]] == [lease], "leases do not depend on readings"
        await client.release(lease)
        _, grant = await client.acquire("voice")
        assert grant["evicted"] == ["image"]
        [(_, _, freed_mib, *_)] = client.received("EvictionOccurred")
        assert freed_mib == SIZES["image"]


async def has_announced(client: Client, expected: str) -> bool:
    return expected in announced_degraded(client)


@pytest.mark.parametrize("memory_error", [4, 999])
async def test_device_without_readings_is_scheduled_by_declared_footprints_if_it_is_named(
    host: LiveHost, library: Path, memory_error: int
) -> None:
    driver = Driver(host)
    driver.write(memory_error=memory_error)
    async with daemon(host, environ=driver.environment(library), **NAMED) as client:
        entry = await device(client)
        assert entry["total_mib"] == TOTAL_MIB
        assert not entry.keys() & {"used_mib", "free_mib"}
        assert entry["error"]
        await check_scheduling_by_footprints(client)


async def test_lost_device_gets_no_loads(host: LiveHost, library: Path) -> None:
    driver = Driver(host)
    async with daemon(host, environ=driver.environment(library)) as client:
        await client.acquire("image")
        driver.write(lost=True)
        await wait_until("the degradation is announced", has_degraded, client, "gpu-lost")
        error = await error_of(client.acquire("voice"))
        assert error.name == "org.gpumand1.Error.DeviceUnavailable"
        assert "gpu-lost" in error.message


async def test_driver_without_memory_per_process(host: LiveHost, library: Path) -> None:
    """The readings of the device decide; the memory of a consumer is unknown, not zero."""
    driver = Driver(host)
    pids = {host.consumers["image"].pid: None}
    driver.write(processes_in=None, compute=pids, used_mib=SIZES["image"])
    await host.consumers["image"].post("/api/admin/load")
    async with daemon(host, environ=driver.environment(library)) as client:
        shown = await client.consumer("image")
        assert shown["residency"] == "resident"
        assert "used_mib" not in shown
        assert (await device(client))["used_mib"] == SIZES["image"]
        asked = client.start_acquire("voice")
        await wait_until("image frees its memory", has_freed, host, "image")
        driver.write(compute={}, used_mib=0)
        assert (await asked)[1]["evicted"] == ["image"]


async def has_freed(host: LiveHost, name: str) -> bool:
    return bool((await host.consumers[name].health())["vram_mib"] == 0)


async def test_driver_call_that_hangs(host: LiveHost, library: Path) -> None:
    driver = Driver(host)
    async with daemon(host, environ=driver.environment(library)) as client:
        driver.hang()
        await wait_until("the hang is announced", has_degraded, client, "nvml-hangs")
        assert not (await device(client)).keys() & {"used_mib", "free_mib"}
        for timeout_usec in (0, 1_000_000):
            error = await error_of(client.acquire("image", timeout_usec=("t", timeout_usec)))
            assert (error.name, "nvml-hangs" in error.message) == (UNAVAILABLE, True)
        asked = client.start_acquire("image")
        await wait_until("the request waits", is_queued, client)
        driver.gate.unlink()
        assert (await asked)[1]["loaded"]
        await wait_until("the driver is not degraded", has_degraded, client, "")
        assert announced_degraded(client)[-1] == ""
        entered = driver.gate.with_name("gate.entered")
        entered.unlink()
        driver.hang()
        await wait_until("the driver hangs again", exists, entered)
    assert await host.end() == 0, "a hanging call must not delay the end of the daemon"


async def is_queued(client: Client) -> bool:
    return bool((await client.status())["queue"])


async def exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)


async def test_no_source_by_configuration(host: LiveHost) -> None:
    async with daemon(host, f'source = "none"\ntotal_mib = {TOTAL_MIB}') as client:
        assert await has_degraded(client, "no-source")
        entry = await device(client)
        assert (entry["source"], entry.keys() & READING_KEYS) == ("none", {"total_mib"})
        await check_scheduling_by_footprints(client)
