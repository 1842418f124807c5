"""Real servers that lie, hang, crash or answer nonsense: each only affects its own request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Client, LiveHost, bare_host, error_of, status_answers_fast, table, wait_until

SIZES = {"bad": 8000, "good": 8000, "wanted": 12000, "pinned": 500}
QUICK = ("--load-sec", "0.05", "--load-steps", "2", "--unload-sec", "0.02")
SCHEDULER = "concurrent_leases = 0\nhealth_interval_sec = 0.2\nsettle_timeout_sec = 0.5"
ROUTES = {
    "health": '{ path = "/health", loaded = "/model_loaded", timeout_sec = 1 }',
    "load": '{ path = "/api/admin/load", timeout_sec = 1.5 }',
    "unload": '{ path = "/api/admin/unload", timeout_sec = 1.5 }',
    "load_timeout_sec": "1.5",
}
FAILED = "org.gpumand1.Error."


@contextlib.asynccontextmanager
async def full_card(folder: Path) -> AsyncIterator[tuple[LiveHost, Client]]:
    """A full device: bad (least recently used) and good are resident; wanted needs the memory of one."""
    async with bare_host(folder) as host:
        await asyncio.gather(*(host.launch(name, mib, *QUICK) for name, mib in SIZES.items()))
        tables = [table(host.consumers[name], mib, **ROUTES) for name, mib in SIZES.items()]
        host.configure("".join(tables) + "pinned = true\n", SCHEDULER)
        await host.start()
        client = await host.client(listen=True)
        for name in ("bad", "good", "pinned"):
            lease, _ = await client.acquire(name)
            await client.release(lease)
        yield host, client


async def is_residency(client: Client, name: str, wanted: str) -> bool:
    return bool((await client.consumer(name))["residency"] == wanted)


async def assert_pinned_is_granted(client: Client) -> None:
    """Check that a pinned consumer can be leased whatever happens to others."""
    lease, grant = await client.acquire("pinned", timeout_usec=("t", 0))
    assert not grant["loaded"]
    await client.release(lease)


async def assert_unharmed(host: LiveHost) -> None:
    assert "Traceback" not in host.log, host.log[-4000:]
    for name in SIZES.keys() - {"bad"}:
        assert (await host.consumers[name].health())["oom"] == 0


# -- evictions -----------------------------------------------------------------------------------------------------

# The test's own connection to the consumer counts as a client, for which a late unload is waited for while it is open.
FAILING_UNLOADS: list[tuple[dict[str, Any], int, str]] = [
    ({"kind": "lying-unload"}, 0, "0 of 8000 MiB became free within"),
    ({"kind": "partial-unload", "mib": 100}, 100, "100 of 8000 MiB became free within"),
    ({"kind": "hang", "on": "unload"}, 0, "no answer within 1.5 s"),
    ({"kind": "error-500", "on": "unload"}, 0, "answered 500"),
    ({"kind": "redirect", "on": "unload"}, 0, "redirects are not followed"),
]


@pytest.mark.parametrize(
    ("fault", "freed_mib", "why"), FAILING_UNLOADS, ids=[one[0]["kind"] for one in FAILING_UNLOADS]
)
async def test_another_victim_is_evicted_instead(
    tmp_path: Path, fault: dict[str, Any], freed_mib: int, why: str
) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await host.consumers["bad"].fault(**fault)

        asked = client.start_acquire("wanted")
        await assert_pinned_is_granted(client)
        _, grant = await asked

        assert grant["evicted"] == ["good"]
        [(consumer, _, freed, method, trigger, details)] = client.received("EvictionFailed")
        assert (consumer, freed, method, trigger) == ("bad", freed_mib, "http", "wanted")
        assert why in details["error"]
        assert [one[0] for one in client.received("EvictionOccurred")] == ["good"]
        stats = (await client.status())["stats"]
        assert (stats["evictions"], stats["eviction_failures"]) == (1, 1)
        assert len(await host.consumers["bad"].events("unload-called")) == 1, "not tried again for the same request"
        await assert_unharmed(host)


async def test_failed_eviction_without_another_victim_is_reported(tmp_path: Path) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await host.consumers["bad"].fault("lying-unload")
        await host.consumers["good"].fault("error-500", on="unload")

        error = await error_of(client.acquire("wanted"))

        assert error.name == FAILED + "EvictionFailed"
        assert "bad, good released no VRAM when evicted" in error.message
        assert sorted(one[0] for one in client.received("EvictionFailed")) == ["bad", "good"]
        stats = (await client.status())["stats"]
        assert (stats["evictions"], stats["eviction_failures"], stats["refusals"]) == (0, 2, 1)
        assert await host.consumers["wanted"].events("load-called") == []
        lease, _ = await client.acquire("good")
        await client.release(lease)
        error = await error_of(client.call("Evict", "sa{sv}", "good", {}))
        assert error.name == FAILED + "EvictionFailed"
        await assert_unharmed(host)


async def test_consumer_that_crashes_during_its_unload_does_no_harm(tmp_path: Path) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await host.consumers["bad"].fault("crash", on="unload")
        _, grant = await client.acquire("wanted")
        assert grant["loaded"]
        # A crashing process closes its connection before its memory is free; no other victim is needed for that.
        assert grant["evicted"] == ["bad"]
        [(consumer, _, freed_mib, *_)] = client.received("EvictionOccurred")
        assert (consumer, freed_mib) == ("bad", 8000)
        assert client.received("EvictionFailed") == []
        await wait_until("its end is noticed", is_residency, client, "bad", "unloaded")
        await assert_unharmed(host)


@pytest.mark.parametrize("kind", ["endless", "garbage"])
async def test_answer_does_not_matter_if_memory_is_freed(tmp_path: Path, kind: str) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await host.consumers["bad"].fault(kind, on="unload")
        _, grant = await client.acquire("wanted")
        assert grant["evicted"] == ["bad"]
        [(consumer, _, freed_mib, *_)] = client.received("EvictionOccurred")
        assert (consumer, freed_mib) == ("bad", 8000)
        await assert_unharmed(host)


# -- loads ---------------------------------------------------------------------------------------------------------

FAILING_LOADS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "crash", "on": "load"}, "closed the connection without an answer"),
    ({"kind": "error-500", "on": "load"}, "answered 500"),
    ({"kind": "hang", "on": "load"}, "no answer within 1.5 s"),
    ({"kind": "redirect", "on": "load"}, "redirects are not followed"),
    ({"kind": "error-500", "on": "health"}, "health route answered 500"),
    ({"kind": "redirect", "on": "health"}, "redirects are not followed"),
    ({"kind": "hang", "on": "health"}, "no answer within 1 s"),
]


@pytest.mark.parametrize(
    ("fault", "why"), FAILING_LOADS, ids=[f"{one[0]['kind']}-{one[1][:6]}" for one in FAILING_LOADS]
)
async def test_failed_load_is_reported_and_starts_a_backoff(tmp_path: Path, fault: dict[str, Any], why: str) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await client.call("Evict", "sa{sv}", "bad", {})
        await host.consumers["bad"].fault(**fault)

        asked = client.start_acquire("bad")
        await assert_pinned_is_granted(client)
        error = await error_of(asked)

        assert error.name == FAILED + "LoadFailed"
        assert why in error.message
        shown = await client.consumer("bad")
        assert (shown["residency"], shown["leases"]) == ("failed", 0)
        assert why in shown["error"]
        again = await error_of(client.acquire("bad"))
        assert again.name == FAILED + "ConsumerBackingOff"
        assert "then retry in " in again.message, "the time until the retry is given"
        assert (await client.status())["stats"]["load_failures"] == 1
        _, grant = await client.acquire("wanted")
        assert grant["loaded"]
        await assert_unharmed(host)


@pytest.mark.parametrize("kind", ["endless", "garbage"])
async def test_invalid_load_answer_of_a_consumer_that_loads(tmp_path: Path, kind: str) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await client.call("Evict", "sa{sv}", "bad", {})
        await host.consumers["bad"].fault(kind, on="load")
        _, grant = await client.acquire("bad")
        assert grant["loaded"]
        assert (await client.consumer("bad"))["used_mib"] == 8000
        await assert_unharmed(host)


# -- health --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["garbage", "error-500", "redirect", "endless", "huge-json", "hang"])
async def test_unusable_health_answer_is_ignored(tmp_path: Path, kind: str) -> None:
    """The known residency stays, readings decide, and it is evicted like any other consumer."""
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await host.consumers["bad"].fault(kind, on="health")
        await assert_health_checks_continue(host, client)
        assert (await client.consumer("bad"))["residency"] == "resident"
        await assert_pinned_is_granted(client)
        _, grant = await client.acquire("wanted")
        assert grant["evicted"] == ["bad"]
        await assert_unharmed(host)


async def assert_health_checks_continue(host: LiveHost, client: Client) -> None:
    """External changes of a good consumer are noticed by health checks, whatever the bad one does."""
    for route, residency in (("unload", "unloaded"), ("load", "resident")):
        await host.consumers["good"].post(f"/api/admin/{route}")
        await wait_until(f"the call of {route} is noticed", is_residency, client, "good", residency)


async def test_consumer_that_always_reports_loaded_is_not_evicted_again_and_again(tmp_path: Path) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        await host.consumers["bad"].fault("stuck-loaded")
        lease, grant = await client.acquire("wanted")
        assert grant["evicted"] == ["bad"]
        await wait_until("its report is accepted", is_residency, client, "bad", "resident")
        await client.release(lease)
        await client.call("Evict", "sa{sv}", "wanted", {})
        await host.consumers["good"].post("/work", seconds=0)

        _, grant = await client.acquire("wanted")

        assert grant["evicted"] == [], "readings show enough free memory"
        assert len(await host.consumers["bad"].events("unload-called")) == 1
        await assert_unharmed(host)


async def test_consumer_that_dies_and_returns_is_noticed(tmp_path: Path) -> None:
    async with full_card(tmp_path) as (host, client), status_answers_fast(host):
        port = host.consumers["bad"].url.rpartition(":")[2]
        await host.consumers["bad"].kill()
        await wait_until("its end is noticed", is_residency, client, "bad", "unloaded")
        error = await error_of(client.acquire("bad"))
        assert error.name == FAILED + "LoadFailed"
        assert f"nothing listens on 127.0.0.1:{port} (connection refused)" in error.message
        await host.launch("bad", SIZES["bad"], *QUICK, "--port", port, "--loaded-at-start")
        await wait_until("it is resident again", is_residency, client, "bad", "resident")
        _, grant = await client.acquire("bad")
        assert not grant["loaded"], "a resident consumer has no backoff"
        await assert_unharmed(host)
