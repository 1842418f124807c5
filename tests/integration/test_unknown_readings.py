"""A game holds 20 of 24 GiB, and the driver fails in every way that it can: nothing is loaded over the game."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Client, LiveHost, bare_host, error_of, wait_until
from tests.integration.shim_driver import NVML, SIZES, TOTAL_MIB, Driver, built_library, daemon, host_with_consumers
from tests.shim.shimfile import ShimDevice

GAME = {1: 20000}
UNAVAILABLE, NO_ROOM = "org.gpumand1.Error.DeviceUnavailable", "org.gpumand1.Error.InsufficientVram"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_library(tmp_path_factory)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    async with host_with_consumers(tmp_path) as made:
        yield made


async def is_degraded(client: Client, word: str) -> bool:
    return word in (await client.status())["degraded"]


async def is_healthy(client: Client) -> bool:
    return not (await client.status())["degraded"]


async def loaded_mib(host: LiveHost) -> int:
    return sum([(await consumer.health())["vram_mib"] for consumer in host.consumers.values()])


async def check_no_room(client: Client) -> None:
    refused = await error_of(client.acquire("voice"))
    assert refused.name == NO_ROOM
    assert "pid 1" in refused.message


Fault = dict[str, Any]
FAULTS: list[tuple[str, Fault, Fault, str]] = [
    ("999 of one call", {"memory_error": 999}, {"memory_error": 0}, "999"),
    ("a busy driver", {"memory_error": 10}, {"memory_error": 0}, "10"),
    ("a driver reload", {"call_error": 1}, {"call_error": 0}, "nvml-error"),
    ("999 of every call", {"call_error": 999}, {"call_error": 0}, "999"),
    ("a closed device", {"memory_error": 4}, {"memory_error": 0}, "4"),
]


@pytest.mark.parametrize(("fault", "repair", "word"), [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS])
async def test_game_counts_while_the_driver_fails(
    host: LiveHost, library: Path, fault: Fault, repair: Fault, word: str
) -> None:
    driver = Driver(host)
    driver.write(compute=GAME)
    async with daemon(host, environ=driver.environment(library)) as client:
        await check_no_room(client)
        driver.write(**fault)
        for timeout_usec in (0, 60_000_000):
            refused = await error_of(client.acquire("voice", timeout_usec=("t", timeout_usec)))
            assert refused.name == NO_ROOM
            assert "19.5 GiB by other programs at the last reading" in refused.message
            assert word in refused.message
        driver.write(**repair)
        await wait_until("VRAM can be read again", is_healthy, client)
        await check_no_room(client)
        assert await loaded_mib(host) == 0


async def test_one_failed_call_is_repeated(host: LiveHost, library: Path) -> None:
    driver = Driver(host)
    driver.write(compute=GAME)
    async with daemon(host, NVML.replace("0.2", "30"), driver.environment(library)) as client:
        driver.write(memory_error=999)
        asked = client.start_acquire("voice")
        await wait_until("the failed reading is shown", is_degraded, client, "999")
        assert not asked.done()
        driver.write(memory_error=0)
        refused = await error_of(asked)
        assert (refused.name, "last reading" in refused.message) == (NO_ROOM, False)


async def test_request_waits_through_a_stall_of_seven_seconds(host: LiveHost, library: Path) -> None:
    driver = Driver(host)
    driver.write(compute=GAME)
    async with daemon(host, environ=driver.environment(library)) as client:
        driver.hang()
        asked = client.start_acquire("voice")
        await asyncio.sleep(7)  # the length of the stall is the scenario: more than the limit of one driver call
        assert not asked.done()
        driver.gate.unlink()
        assert (await error_of(asked)).name == NO_ROOM
        assert await loaded_mib(host) == 0


@pytest.mark.parametrize("game", [GAME, {}], ids=["beside a game", "on an empty card"])
async def test_request_waits_for_a_driver_that_needs_eight_seconds_to_initialise(
    host: LiveHost, library: Path, game: dict[int, int]
) -> None:
    driver = Driver(host)
    driver.gate.touch()
    driver.write(compute=game, hang_in="init", hang_while=driver.gate)
    async with daemon(host, environ=driver.environment(library)) as client:
        asked = client.start_acquire("voice")
        await wait_until("the driver call is given up", is_degraded, client, "nvml-hangs")
        await asyncio.sleep(3)  # 5 s are the limit of one driver call
        assert not asked.done()
        driver.gate.unlink()
        if game:
            assert (await error_of(asked)).name == NO_ROOM
        else:
            assert (await asked)[1]["loaded"]


async def is_loading(client: Client) -> bool:
    return bool((await client.consumer("image"))["residency"] == "loading")


async def test_driver_that_is_busy_during_a_load_hides_neither_the_load_nor_the_game(
    tmp_path: Path, library: Path
) -> None:
    async with bare_host(tmp_path) as host:
        for name, mib in SIZES.items():
            await host.launch(name, mib, "--load-sec", "2", "--unload-sec", "0.02")
        driver = Driver(host)
        driver.write(compute={1: 8000})
        async with daemon(host, environ=driver.environment(library)) as client:
            asked = client.start_acquire("image")
            await wait_until("image is being loaded", is_loading, client)
            driver.write(memory_error=10)
            lease, _ = await asked
            await client.release(lease)
            waiting = await error_of(client.acquire("voice", timeout_usec=("t", 4_000_000)))
            assert waiting.name == UNAVAILABLE
            assert "nothing is evicted while device 0 cannot be read" in waiting.message
            assert (await host.consumers["image"].health())["vram_mib"] == SIZES["image"]
            driver.write(memory_error=0)
            assert (await client.acquire("voice"))[1]["evicted"] == ["image"]


Later = Callable[[Driver], None]
LATER: list[tuple[str, Later]] = [
    ("999 when initialised again", lambda driver: driver.write(lost=False, memory_error=999, init_error=999)),
    ("no devices when initialised again", lambda driver: driver.write(lost=False, devices=[])),
    ("the device vanishes", lambda driver: driver.write(devices=driver.shim.devices[1:])),
    ("still lost", lambda driver: None),
]


@pytest.mark.parametrize("later", [one[1] for one in LATER], ids=[one[0] for one in LATER])
@pytest.mark.parametrize("first", ["lost", "handle"])
async def test_gpu_stays_lost_after_the_driver_was_initialised_again(
    host: LiveHost, library: Path, later: Later, first: str
) -> None:
    driver = Driver(host)
    driver.write(compute=GAME)
    devices = [*driver.shim.devices, ShimDevice("GPU-small", total_mib=8192)]
    driver.write(devices=devices)
    async with daemon(host, environ=driver.environment(library)) as client:
        driver.write(**({"lost": True} if first == "lost" else {"handle_error": 16, "memory_error": 16}))
        await wait_until("the GPU is lost", is_degraded, client, "gpu-")
        later(driver)
        for timeout_usec in (0, 60_000_000):
            await asyncio.sleep(1.1)  # the first delay until the driver is initialised again
            refused = await error_of(client.acquire("voice", timeout_usec=("t", timeout_usec), device=("s", "GPU-a")))
            assert (refused.name, "lost" in refused.message) == (UNAVAILABLE, True), refused.message
        driver.write(lost=False, memory_error=0, handle_error=0, init_error=0, devices=devices, compute={})
        driver.write(compute={})
        await wait_until("VRAM can be read again", is_healthy, client, within_sec=60)
        assert (await client.acquire("voice"))[1]["loaded"]


@pytest.mark.parametrize("code", [4, 15, 999])
async def test_healthy_gpu_is_used_beside_an_ill_one(host: LiveHost, library: Path, code: int) -> None:
    driver = Driver(host)
    well = ShimDevice("GPU-b", total_mib=TOTAL_MIB, processes_in=host.simulator)
    driver.write(devices=[ShimDevice("GPU-a", total_mib=TOTAL_MIB, handle_error=code, memory_error=code), well])
    async with daemon(host, NVML.replace(f"total_mib = {TOTAL_MIB}", ""), driver.environment(library)) as client:
        lease, grant = await client.acquire("image")
        assert grant["device"] == "1"
        refused = await error_of(client.acquire("voice", device=("s", "0"), timeout_usec=("t", 60_000_000)))
        assert refused.name == UNAVAILABLE
        await client.release(lease)
        assert (await client.acquire("voice"))[1]["evicted"] == ["image"]
