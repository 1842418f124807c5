"""``kill -9`` of the daemon at any moment: leases of existing owners survive, and the state afterwards is correct."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.bus.connection import BusError
from tests.integration.live import TOTAL_MIB, Client, LiveHost, bare_host, error_of, table, wait_until

SIZES = {"image": 13312, "voice": 2867, "video": 12000}
CONNECTION = ("s", "connection")
SCHEDULER = "concurrent_leases = 0\nhealth_interval_sec = 0.3"
NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
QUICK = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")


@contextlib.asynccontextmanager
async def host_with(folder: Path, **flags: tuple[str, ...]) -> AsyncIterator[LiveHost]:
    """A host with three consumers, fast unless flags change that, and a daemon."""
    async with bare_host(folder) as host:
        processes = (host.launch(name, mib, *QUICK, *flags.get(name, ())) for name, mib in SIZES.items())
        await asyncio.gather(*processes)
        host.configure("".join(table(host.consumers[name], mib) for name, mib in SIZES.items()), SCHEDULER)
        await host.start()
        yield host


async def restart(host: LiveHost) -> None:
    assert await host.end(signal.SIGKILL) == -signal.SIGKILL
    await host.start()


async def leases(client: Client) -> dict[str, str]:
    """Active leases: consumer by lease id."""
    return {one["id"]: one["consumer"] for one in (await client.status())["leases"]}


async def residency(client: Client, name: str) -> str:
    return str((await client.consumer(name))["residency"])


async def is_residency(client: Client, name: str, wanted: str) -> bool:
    return await residency(client, name) == wanted


async def status_is_correct(host: LiveHost, client: Client) -> bool:
    """Whether the status of each consumer agrees with the consumer, and none is loading or unloading."""
    shown = {one["name"]: one["residency"] for one in (await client.status())["consumers"]}
    loaded = {name: (await consumer.health())["model_loaded"] for name, consumer in host.consumers.items()}
    return shown == {name: "resident" if is_loaded else "unloaded" for name, is_loaded in loaded.items()}


async def are_consumers_idle(host: LiveHost) -> bool:
    """Whether no consumer is still loading or unloading for a daemon that was killed."""
    answers = [await consumer.health() for consumer in host.consumers.values()]
    return all(one["vram_mib"] == (SIZES[one["name"]] if one["model_loaded"] else 0) for one in answers)


async def assert_consistent(host: LiveHost, client: Client) -> None:
    """Check that the state is correct, no memory was reserved twice, and every consumer can be acquired."""
    await wait_until("no consumer is loading or unloading", are_consumers_idle, host)
    await wait_until("the status agrees with the consumers", status_is_correct, host, client)
    for consumer in host.consumers.values():
        assert (await consumer.health())["oom"] == 0, f"{consumer.name} ran out of memory"
    assert "Traceback" not in host.log, host.log[-4000:]


async def has(client: Client, key: str, count: int) -> bool:
    return len((await client.status())[key]) == count


async def test_idle_leases_are_restored_with_the_same_ids(tmp_path: Path) -> None:
    async with host_with(tmp_path) as host:
        client, mortal = await host.client(listen=True), await host.client()
        kept = {(await client.acquire("image"))[0]: "image"}
        kept[(await client.acquire("voice", lifetime=CONNECTION))[0]] = "voice"
        kept[(await mortal.acquire("voice"))[0]] = "voice"  # ttl: survives its client
        doomed, _ = await mortal.acquire("voice", lifetime=CONNECTION)
        before = (await client.status())["leases"]

        await host.end(signal.SIGKILL)
        await mortal.close()
        await host.start()

        assert await leases(client) == kept
        after = (await client.status())["leases"]
        assert sorted(after, key=str) == sorted((one for one in before if one["id"] != doomed), key=str)
        assert (await error_of(client.release(doomed))).name == "org.gpumand1.Error.NoSuchLease"
        assert [await residency(client, name) for name in SIZES] == ["resident", "resident", "unloaded"]
        assert (await error_of(client.acquire("video", timeout_usec=("t", 0)))).name == "org.gpumand1.Error.Busy"
        for lease in list(kept)[:2]:
            await client.release(lease)
        assert (await client.acquire("video"))[1]["evicted"] == ["image"]
        await assert_consistent(host, client)


async def test_lease_ends_when_its_owner_leaves_after_the_restart(tmp_path: Path) -> None:
    async with host_with(tmp_path) as host:
        observer, owner = await host.client(listen=True), await host.client()
        lease, _ = await owner.acquire("image", lifetime=CONNECTION)
        await restart(host)
        assert await leases(observer) == {lease: "image"}
        await owner.close()
        await wait_until("its lease ended", has, observer, "leases", 0)
        await wait_until("its end is announced", is_announced, observer, "LeaseEnded")
        assert observer.received("LeaseEnded") == [(lease, "image", "owner-vanished")]


async def is_announced(client: Client, member: str) -> bool:
    return bool(client.received(member))


async def test_short_lease_expires_while_the_daemon_is_down(tmp_path: Path) -> None:
    async with host_with(tmp_path) as host:
        client = await host.client()
        _, grant = await client.acquire("voice", ttl_usec=("t", 300_000))
        await host.end(signal.SIGKILL)
        await wait_until("the lease has expired", is_past, grant["expires_usec"])
        await host.start()
        assert await leases(client) == {}


async def is_past(usec: int) -> bool:
    return time.time_ns() // 1000 > usec


async def test_waiting_client_gets_an_error_and_may_repeat_its_request(tmp_path: Path) -> None:
    async with host_with(tmp_path) as host:
        client, other = await host.client(), await host.client()
        lease, _ = await client.acquire("image", lifetime=CONNECTION)
        asked = [
            other.start_acquire("video"),
            other.start_acquire("video", lifetime=CONNECTION),
            client.start_acquire("video"),
        ]
        await wait_until("three requests wait", has, client, "queue", 3)

        await restart(host)

        assert [(await error_of(one)).name for one in asked] == [NO_REPLY] * 3
        assert await leases(client) == {lease: "image"}
        assert (await client.status())["queue"] == []
        again = [
            other.start_acquire("video"),
            other.start_acquire("video", lifetime=CONNECTION),
            client.start_acquire("video"),
        ]
        await wait_until("three requests wait again", has, client, "queue", 3)
        await client.release(lease)
        for one in again:
            assert (await one)[1]["consumer"] == "video"
        await assert_consistent(host, client)


async def test_kill_during_an_eviction(tmp_path: Path) -> None:
    async with host_with(tmp_path, image=("--unload-sec", "2")) as host:
        client = await host.client()
        held, _ = await client.acquire("voice", lifetime=CONNECTION)
        await client.call("Load", "sa{sv}", "image", {})
        asked = client.start_acquire("video")
        await wait_until("image is unloading", is_residency, client, "image", "unloading")

        await restart(host)

        assert (await error_of(asked)).name == NO_REPLY
        assert await leases(client) == {held: "voice"}
        _, grant = await client.acquire("video", timeout_usec=("t", 30_000_000))
        assert grant["loaded"]
        assert await residency(client, "image") == "unloaded"
        await assert_consistent(host, client)


@pytest.mark.parametrize("target", ["video", "image"])
async def test_kill_during_a_load(tmp_path: Path, target: str) -> None:
    """The consumer continues to load; later requests must not use the memory reserved for it."""
    async with host_with(tmp_path, image=("--load-sec", "3", "--load-steps", "6")) as host:
        client = await host.client()
        held, _ = await client.acquire("voice", lifetime=CONNECTION)
        asked = client.start_acquire("image")
        await wait_until("image is loading", is_residency, client, "image", "loading")
        await wait_until("its first memory shows", holds_something, host, "image")

        await restart(host)

        assert (await error_of(asked)).name == NO_REPLY
        assert await leases(client) == {held: "voice"}
        _, grant = await client.acquire(target, timeout_usec=("t", 60_000_000))
        assert grant["consumer"] == target
        await assert_consistent(host, client)


async def holds_something(host: LiveHost, name: str) -> bool:
    return bool((await host.consumers[name].health())["vram_mib"] > 0)


async def test_sigterm_refuses_waiting_requests_and_keeps_leases(tmp_path: Path) -> None:
    async with host_with(tmp_path, image=("--unload-sec", "2")) as host:
        client = await host.client(listen=True)
        lease, _ = await client.acquire("voice", lifetime=CONNECTION)
        await client.call("Load", "sa{sv}", "image", {})
        asked = [
            client.start_acquire("video"),
            client.start_acquire("video"),
            client.start_acquire("image", device=("s", "0")),
        ]
        await wait_until("image is unloading", is_residency, client, "image", "unloading")
        await wait_until("three requests wait", has, client, "queue", 3)

        assert await host.end(signal.SIGTERM) == 0

        assert {(await error_of(one)).name for one in asked} == {"org.gpumand1.Error.ShuttingDown"}
        assert client.received("LeaseEnded") == []
        await host.start()
        assert await leases(client) == {lease: "voice"}
        await client.release(lease)
        await assert_consistent(host, client)


async def test_loss_of_the_bus_ends_the_daemon(tmp_path: Path) -> None:
    async with host_with(tmp_path) as host:
        client = await host.client()
        await client.acquire("voice")
        assert host.daemon is not None
        host.bus.kill()
        async with asyncio.timeout(30):
            assert await host.daemon.wait() == 1
        assert "the bus connection is lost" in host.log
        assert "Traceback" not in host.log, host.log[-4000:]


# -- repeated kills at random moments ------------------------------------------------------------------------------


class Worker:
    """A client that acquires, holds and releases across restarts; its token makes repeated calls safe."""

    def __init__(self, client: Client, draw: random.Random) -> None:
        self.client = client
        self.held = ""
        self.granted = 0
        self._draw = draw

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            name, token = self._draw.choice(sorted(SIZES)), f"{self._draw.random()}"
            self.held = await self._acquire(name, token)
            self.granted += 1
            await asyncio.sleep(self._draw.uniform(0, 0.2))
            lease, self.held = self.held, ""
            await self._release(lease)

    async def _acquire(self, name: str, token: str) -> str:
        while True:
            with contextlib.suppress(BusError):
                options = {"timeout_usec": ("t", 10_000_000), "lifetime": CONNECTION, "token": ("s", token)}
                return (await self.client.acquire(name, **options))[0]
            await asyncio.sleep(0.02)

    async def _release(self, lease: str) -> None:
        while True:
            try:
                return await self.client.release(lease)
            except BusError as error:
                if error.name == "org.gpumand1.Error.NoSuchLease":
                    return None  # the reply was lost, but the release took effect
            await asyncio.sleep(0.02)


async def assert_nothing_lost(observer: Client, workers: list[Worker]) -> None:
    """Check that the status contains every held lease and that no memory is reserved twice."""
    before = {worker.held for worker in workers}
    status = await observer.status()
    lost = before & {worker.held for worker in workers} - {one["id"] for one in status["leases"]} - {""}
    assert not lost
    busy = [one for one in status["consumers"] if one["leases"] or one["residency"] == "loading"]
    assert sum(one["vram_resident_mib"] for one in busy) <= TOTAL_MIB, busy


@pytest.mark.timeout(180)
async def test_killed_at_any_moment_under_light_load(tmp_path: Path, seed: int) -> None:
    draw, kills, over = random.Random(seed), 20, asyncio.Event()
    print("seed", seed)
    slow = ("--load-sec", "0.2", "--load-steps", "4", "--unload-sec", "0.1")
    async with host_with(tmp_path, image=slow, video=slow, voice=slow) as host:
        observer = await host.client()
        workers = [Worker(await host.client(), random.Random(draw.random())) for _ in range(4)]
        working = [asyncio.create_task(worker.run(over)) for worker in workers]
        for _ in range(kills):
            await asyncio.sleep(draw.uniform(0.0, 0.5))  # chooses the moment of the kill
            await restart(host)
            await assert_nothing_lost(observer, workers)
            for consumer in host.consumers.values():
                assert (await consumer.health())["oom"] == 0, f"{consumer.name} ran out of memory"
        over.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*working)
        print("granted", [worker.granted for worker in workers])
        assert all(worker.granted for worker in workers)
        assert await leases(observer) == {}
        await assert_consistent(host, observer)
        assert list((tmp_path / "state" / "leases").iterdir()) == []


async def test_second_daemon_on_the_bus_does_not_touch_the_leases_of_the_first(tmp_path: Path) -> None:
    """A second daemon, started manually to try a configuration, exits without ending leases or loading anything."""
    async with host_with(tmp_path) as host:
        client = await host.client()
        lease, _ = await client.acquire("voice", lifetime=CONNECTION)
        other = tmp_path / "other.toml"
        other.write_text(f'[gpu]\nsource = "simulated"\nsimulated_total_mib = [{TOTAL_MIB}]\n', encoding="utf-8")
        arguments = ["--config", str(other), "--bus-address", host.bus.address, "--state-dir", str(tmp_path / "state")]
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gpumand", *arguments, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(second.communicate(), 30)

        assert second.returncode == 1
        assert "is owned by another process on this bus" in said.decode()
        await restart(host)
        assert await leases(client) == {lease: "voice"}
        await client.close()
