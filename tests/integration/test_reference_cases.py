"""The reference scheduler's cases over the bus: evictions, loads, announcements and the order of grants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Client, LiveHost, bare_host, error_of, live_host, table, wait_until

FLAGS = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")
CONNECTION = ("s", "connection")


@asynccontextmanager
async def host_with_device(
    folder: Path, total_mib: int, sizes: dict[str, int], **coexist: str
) -> AsyncIterator[LiveHost]:
    """A host with a device of that size; ``coexist`` lists the consumers that a consumer can coexist with."""
    async with bare_host(folder) as host:
        size = ("--device-total", str(total_mib))
        await asyncio.gather(*(host.launch(name, mib, *FLAGS, *size) for name, mib in sizes.items()))
        more = {name: {"can_coexist_with": f'["{other}"]'} for name, other in coexist.items()}
        tables = [table(host.consumers[name], mib, **more.get(name, {})) for name, mib in sizes.items()]
        gpu = f'source = "simulated"\nsimulated_total_mib = [{total_mib}]\nsimulated_dir = "{host.simulator}"'
        host.configure("".join(tables), "concurrent_leases = 1", gpu)
        await host.start()
        yield host


async def calls(host: LiveHost, name: str) -> tuple[int, int]:
    """How often a consumer's load and unload routes were called."""
    consumer = host.consumers[name]
    return len(await consumer.events("load-called")), len(await consumer.events("unload-called"))


async def no_memory_ran_out(host: LiveHost) -> bool:
    return all([(await consumer.health())["oom"] == 0 for consumer in host.consumers.values()])


async def residencies(client: Client) -> dict[str, str]:
    return {one["name"]: one["residency"] for one in (await client.status())["consumers"]}


# -- the three cases -----------------------------------------------------------------------------------------------


async def test_resident_consumer_is_granted_without_evictions(tmp_path: Path) -> None:
    async with host_with_device(tmp_path, 24564, {"image": 13312, "voice": 2867, "llm": 6144}) as host:
        client = await host.client(listen=True)
        for name in host.consumers:
            await client.call("Load", "sa{sv}", name, {})
        before = {name: await calls(host, name) for name in host.consumers}

        lease, grant = await client.acquire("voice")

        assert (grant["consumer"], grant["loaded"], grant["evicted"]) == ("voice", False, [])
        assert {name: await calls(host, name) for name in host.consumers} == before
        assert client.received("LeaseGranted") == [(lease, "voice")]
        assert client.received("EvictionOccurred") == client.received("EvictionFailed") == []
        assert set((await residencies(client)).values()) == {"resident"}


async def test_image_service_is_evicted_for_the_voice_service(tmp_path: Path) -> None:
    async with host_with_device(tmp_path, 16384, {"image": 13312, "voice": 2867}) as host:
        client = await host.client(listen=True)
        lease, _ = await client.acquire("image")
        await client.release(lease)

        _, grant = await client.acquire("voice")

        [(consumer, device, freed_mib, method, trigger, details)] = client.received(
            "EvictionOccurred"
        )  # before the reply
        assert (consumer, device, freed_mib, method, trigger) == ("image", "0", 13312, "http", "voice")
        assert (details["verified"], details["tried"], details["error"]) == (True, ["http"], "")
        assert (grant["evicted"], grant["loaded"]) == (["image"], True)
        assert grant["endpoint"] == host.consumers["voice"].url
        assert (await calls(host, "image"))[1] == 1
        assert await calls(host, "voice") == (1, 0)
        stats = (await client.status())["stats"]
        assert (stats["evictions"], stats["eviction_failures"], stats["grants"], stats["loads"]) == (1, 0, 2, 2)
        assert await client.property("EvictionCount") == 1
        assert await residencies(client) == {"image": "unloaded", "voice": "resident"}
        assert await no_memory_ran_out(host)
        order = [signal.member for signal in client.signals]
        assert order == ["LeaseGranted", "LeaseEnded", "EvictionOccurred", "LeaseGranted"]


async def test_coexisting_least_recently_used_consumer_is_not_evicted(tmp_path: Path) -> None:
    async with host_with_device(tmp_path, 18432, {"llm": 8000, "image": 9000, "voice": 2867}, voice="llm") as host:
        client = await host.client(listen=True)
        for name in ("llm", "image"):
            lease, _ = await client.acquire(name)
            await client.release(lease)

        (plan,) = await client.call("Plan", "sa{sv}", "voice", {})
        _, grant = await client.acquire("voice")

        assert [one["consumer"] for one in plan["evictions"]] == grant["evicted"] == ["image"]
        assert [(one["consumer"], one["why"]) for one in plan["spared"]] == [
            ("llm", "listed in can_coexist_with of voice")
        ]
        assert (await calls(host, "llm"))[1] == 0
        assert await residencies(client) == {"llm": "resident", "image": "unloaded", "voice": "resident"}
        assert await no_memory_ran_out(host)


async def test_nothing_is_evicted_if_it_would_not_suffice(tmp_path: Path) -> None:
    """Evicting everything that may be evicted would not free enough memory, so nothing is evicted."""
    async with host_with_device(tmp_path, 16384, {"image": 9000, "small": 3000, "giant": 16000}) as host:
        client = await host.client(listen=True)
        for name in ("image", "small"):
            await client.call("Load", "sa{sv}", name, {})
        await client.call("Pin", "s", "image")

        error = await error_of(client.acquire("giant"))

        assert error.name == "org.gpumand1.Error.InsufficientVram"
        assert "8.8 GiB by image (pinned)" in error.message
        assert "2.9 GiB by small" in error.message
        assert (await calls(host, "small"))[1] == (await calls(host, "image"))[1] == 0
        assert client.received("EvictionOccurred") == []
        assert (await client.status())["stats"]["refusals"] == 1


# -- order of grants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "at_once"), [(1, 1), (2, 2), (0, 3)])
async def test_number_of_concurrent_leases_is_limited(tmp_path: Path, slots: int, at_once: int) -> None:
    async with live_host(
        tmp_path, {"a": 1000, "b": 1000, "c": 1000}, *FLAGS, scheduler=f"concurrent_leases = {slots}"
    ) as host:
        client = await host.client(listen=True)
        asked = [client.start_acquire(name) for name in host.consumers]
        for served, one in enumerate(asyncio.as_completed(asked), start=1):
            expected = min(at_once, 4 - served)  # no lease slot stays free while a request waits
            await wait_until(f"{expected} leases", counts, client, expected, max(0, 4 - served - at_once))
            lease, _ = await one
            await client.release(lease)
        assert client.received("EvictionOccurred") == []


async def counts(client: Client, leases: int, waiting: int) -> bool:
    status = await client.status()
    assert len(status["leases"]) <= leases
    return len(status["leases"]) == leases and len(status["queue"]) == waiting


async def queued(client: Client) -> list[str]:
    queue = (await client.status())["queue"]
    assert [one["position"] for one in queue] == list(range(1, len(queue) + 1))
    assert all(one["waiting_for"] for one in queue), "every waiting request has a reason"
    return [one["consumer"] for one in queue]


async def has_queued(client: Client, names: list[str]) -> bool:
    return await queued(client) == names


async def serve_all(client: Client, first: str, asked: list[asyncio.Task[tuple[str, dict[str, Any]]]]) -> list[str]:
    """Release one lease after the other; returns the consumers in the order of their grants."""
    await client.release(first)
    waiting = set(asked)
    while waiting:
        async with asyncio.timeout(30):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            await client.release((await one)[0])
    return [consumer for _, consumer in client.received("LeaseGranted")][1:]


async def test_higher_priority_is_served_first_then_arrival_order(tmp_path: Path) -> None:
    sizes = {"a": 1000, "b": 1000, "c": 1000, "d": 1000}
    async with live_host(tmp_path, sizes, *FLAGS, scheduler="concurrent_leases = 1\naging_sec = 3600") as host:
        client = await host.client(listen=True)
        first, _ = await client.acquire("a")
        asked = []
        for name, priority, order in [("b", 0, ["b"]), ("c", 0, ["b", "c"]), ("d", 10, ["d", "b", "c"])]:
            asked.append(client.start_acquire(name, priority=("i", priority)))
            await wait_until(f"{name} waits", has_queued, client, order)
        assert await client.property("QueueLength") == 3
        busy = await error_of(client.acquire("a", timeout_usec=("t", 0)))
        assert busy.name == "org.gpumand1.Error.Busy"
        assert await serve_all(client, first, asked) == ["d", "b", "c"]


async def test_request_that_has_waited_long_is_not_overtaken(tmp_path: Path) -> None:
    async def has_waited() -> bool:
        return bool((await client.status())["queue"][0]["waited_usec"] > 500_000)

    sizes = {"a": 1000, "old": 1000, "urgent": 1000}
    async with live_host(tmp_path, sizes, *FLAGS, scheduler="concurrent_leases = 1\naging_sec = 0.2") as host:
        client = await host.client(listen=True)
        first, _ = await client.acquire("a")
        asked = [client.start_acquire("old", priority=("i", -100))]
        await wait_until("old waits", has_queued, client, ["old"])
        await wait_until("old has aged by more than 200 points", has_waited)
        asked.append(client.start_acquire("urgent", priority=("i", 100)))
        await wait_until("urgent is behind it", has_queued, client, ["old", "urgent"])
        tables = "".join(table(consumer, 1000) for consumer in host.consumers.values())
        for aging_sec, order in [(3600, ["urgent", "old"]), (0.2, ["old", "urgent"])]:
            host.configure(tables, f"concurrent_leases = 1\naging_sec = {aging_sec}")
            await client.call("Reload")
            assert await queued(client) == order, f"a point equals {aging_sec} s / 100"
        assert await serve_all(client, first, asked) == ["old", "urgent"]
