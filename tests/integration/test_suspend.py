"""The real daemon during suspends and shutdowns announced by a fake logind."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.bus.connection import BusError
from gpumand.testing.login1 import FakeLogind
from tests.integration.live import Client, LiveHost, error_of, live_host, wait_until

SIZES = {"image": 13312, "video": 12000}
QUICK = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")
WAITING_FOR_RESUME = "the host is suspending or has just resumed"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    async with live_host(tmp_path, SIZES, *QUICK, scheduler="concurrent_leases = 0\nhealth_interval_sec = 0.3") as made:
        yield made
        assert "Traceback" not in made.log, made.log[-4000:]


@pytest.fixture
async def logind(host: LiveHost) -> AsyncIterator[FakeLogind]:
    fake = FakeLogind(host.bus.address)
    await fake.start()
    yield fake
    await fake.stop()


async def waits_for(client: Client, *expected: str) -> bool:
    return [one["waiting_for"] for one in (await client.status())["queue"]] == list(expected)


async def test_requests_wait_until_the_host_resumes(host: LiveHost, logind: FakeLogind) -> None:
    client, other = await host.client(), await host.client()
    await wait_until("logind was asked", has_been_asked, logind)
    logind.prepare("Sleep", True)
    await wait_until("requests are held", is_held, client)
    asked = other.start_acquire("image")
    await wait_until("the reason for waiting is reported", waits_for, client, WAITING_FOR_RESUME)
    assert (await client.consumer("image"))["residency"] == "unloaded"
    logind.prepare("Sleep", False)
    assert (await asked)[1]["loaded"]
    assert "the host has resumed: requests are served again" in host.log


async def has_been_asked(logind: FakeLogind) -> bool:
    return logind.asked >= 2


async def is_held(client: Client) -> bool:
    """Whether a plan reports that requests are held."""
    (plan,) = await client.call("Plan", "sa{sv}", "image", {})
    return bool(plan["message"] == WAITING_FOR_RESUME)


async def test_consumer_that_died_during_a_suspend_is_noticed_before_the_next_grant(
    host: LiveHost, logind: FakeLogind
) -> None:
    client = await host.client()
    await wait_until("logind was asked", has_been_asked, logind)
    lease, _ = await client.acquire("image")
    await client.release(lease)
    logind.prepare("Sleep", True)
    await wait_until("requests are held", is_held, client)
    asked = client.start_acquire("video")
    await host.consumers["image"].kill()
    logind.prepare("Sleep", False)
    _, grant = await asked
    assert (grant["loaded"], grant["evicted"]) == (True, [])


async def test_shutdown_refuses_waiting_and_new_requests_until_it_is_cancelled(
    host: LiveHost, logind: FakeLogind
) -> None:
    client, other = await host.client(listen=True), await host.client()
    await wait_until("logind was asked", has_been_asked, logind)
    lease, _ = await client.acquire("image")
    waiting = other.start_acquire("video")
    await wait_until("one request waits", is_queue, client, 1)
    logind.prepare("Shutdown", True)
    error = await error_of(waiting)
    assert (error.name, error.message) == ("org.gpumand1.Error.ShuttingDown", "the host is shutting down")
    assert (await error_of(client.acquire("image"))).name == "org.gpumand1.Error.ShuttingDown"
    assert client.received("LeaseEnded") == []
    logind.prepare("Shutdown", False)
    await wait_until("requests are granted again", can_acquire, client)
    await client.release(lease)


async def is_queue(client: Client, length: int) -> bool:
    return len((await client.status())["queue"]) == length


async def can_acquire(client: Client) -> bool:
    try:
        await client.acquire("image")
    except BusError:
        return False
    return True


@pytest.mark.parametrize("shutdown", [True, False])
async def test_leases_end_with_the_host_but_not_with_the_daemon(
    host: LiveHost, logind: FakeLogind, shutdown: bool
) -> None:
    client = await host.client(listen=True)
    await wait_until("logind was asked", has_been_asked, logind)
    lease, _ = await client.acquire("image")
    if shutdown:
        logind.prepare("Shutdown", True)
        await wait_until("the shutdown is known", is_shutting_down, client)
    assert await host.end(signal.SIGTERM) == 0
    expected = [(lease, "image", "shutdown")] if shutdown else []
    await wait_until("the end of the lease was announced", has_heard, client, expected)
    if shutdown:
        logind.prepare("Shutdown", False)
    await host.start()
    assert [one["id"] for one in (await client.status())["leases"]] == ([] if shutdown else [lease])


async def has_heard(client: Client, expected: list[tuple[str, str, str]]) -> bool:
    return client.received("LeaseEnded") == expected


async def is_shutting_down(client: Client) -> bool:
    return (await error_of(client.acquire("image", timeout_usec=("t", 0)))).name == "org.gpumand1.Error.ShuttingDown"


async def test_daemon_started_during_a_shutdown_grants_nothing(host: LiveHost, logind: FakeLogind) -> None:
    await host.end(signal.SIGTERM)
    logind.preparing["Shutdown"] = True
    await host.start()
    client = await host.client()
    assert (await error_of(client.acquire("image"))).name == "org.gpumand1.Error.ShuttingDown"
