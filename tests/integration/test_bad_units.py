"""Consumers with units on a systemd that is slow, refuses or is missing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.live import Client, LiveHost, bare_host, error_of, status_answers_fast, wait_until
from tests.integration.service_manager.host import FakeHost

ERROR = "org.gpumand1.Error."
SCHEDULER = "concurrent_leases = 0\nsettle_timeout_sec = 0.5\nhealth_interval_sec = 0.3"


def unit_holding_memory(host: LiveHost, name: str, mib: int, **more: Any) -> dict[str, Any]:
    """A unit whose process holds memory while it runs."""
    announce = f'echo \'{{"mib": {mib}, "consumer": "{name}"}}\' > {host.simulator}/$$; exec sleep 1000'
    return {"argv": ["sh", "-c", announce], **more}


def unit_table(name: str, mib: int, *more: str) -> str:
    lines = [f"[consumers.{name}]", f'unit = "{name}.service"', f"vram_resident_mib = {mib}", *more]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def running_daemon_and_systemd(
    folder: Path, host: LiveHost, tables: str, **units: dict[str, Any]
) -> AsyncIterator[tuple[Client, FakeHost]]:
    """Run the fake systemd with these units, and the daemon."""
    control = await host.client(listen=True)
    systemd = FakeHost(host.bus, control.bus, folder)
    if units:
        await systemd.boot({f"{name}.service": behaviour for name, behaviour in units.items()})
    host.configure(tables, SCHEDULER)
    await host.start()
    try:
        async with status_answers_fast(host):
            yield control, systemd
    finally:
        await host.end()  # stop it before systemd, whose loss it would report to its clients
        await systemd.halt()
    assert "Traceback" not in host.log, host.log[-4000:]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LiveHost]:
    async with bare_host(tmp_path) as made:
        yield made


async def is_residency(client: Client, name: str, wanted: str) -> bool:
    return bool((await client.consumer(name))["residency"] == wanted)


async def has_waiting_request(client: Client) -> bool:
    return bool((await client.status())["queue"])


async def load(client: Client, name: str) -> None:
    await client.call("Load", "sa{sv}", name, {})


# -- escalation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lying-unload", "error-500:on=unload"])
async def test_unit_is_stopped_when_its_unload_route_frees_nothing(tmp_path: Path, host: LiveHost, fault: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--name", "liar", "--mib", "14000", "--port", str(port), "--simulator-dir", str(host.simulator)]
    command = [sys.executable, "-m", "gpumand.testing.consumer", *flags, "--load-sec=0.05", f"--fault={fault}"]
    routes = [
        f'url = "http://127.0.0.1:{port}"',
        'health = { path = "/health", loaded = "/model_loaded" }',
        'load = { path = "/api/admin/load" }',
        'unload = { path = "/api/admin/unload" }',
    ]
    tables = unit_table("liar", 14000, *routes) + unit_table("wanted", 12000)
    units = {"liar": {"argv": command}, "wanted": unit_holding_memory(host, "wanted", 12000)}
    async with running_daemon_and_systemd(tmp_path, host, tables, **units) as (client, systemd):
        await load(client, "liar")

        _, grant = await client.acquire("wanted")

        assert grant["evicted"] == ["liar"]
        [(consumer, _, freed_mib, method, trigger, details)] = client.received("EvictionOccurred")
        assert (consumer, freed_mib, method, trigger) == ("liar", 14000, "unit-stop", "wanted")
        assert details["tried"] == ["http", "unit-stop"]
        assert client.received("EvictionFailed") == []
        stats = (await client.status())["stats"]
        assert (stats["evictions"], stats["eviction_failures"]) == (1, 0)
        assert await systemd.main_pid("liar.service") == 0
        assert await is_residency(client, "liar", "unloaded")


FAILING_STOPS: list[tuple[dict[str, Any], str]] = [
    ({"access": "denied"}, "systemd does not allow gpumand to stop bad.service"),
    ({"reactivates_after_sec": 0.0, "triggered_by": ["bad.socket"]}, "started again right after it was stopped"),
    ({"stop_delay_sec": 30.0}, "bad.service did not stop within 1 s and is deactivating"),
    ({"destructive": True}, "is destructive"),
]


@pytest.mark.parametrize(("behaviour", "why"), FAILING_STOPS, ids=[next(iter(one[0])) for one in FAILING_STOPS])
async def test_unit_that_cannot_be_stopped_is_reported_and_another_is_evicted(
    tmp_path: Path, host: LiveHost, behaviour: dict[str, Any], why: str
) -> None:
    names = {"bad": 8000, "good": 8000, "wanted": 12000}
    tables = "".join(unit_table(name, mib, "stop_timeout_sec = 1") for name, mib in names.items())
    units = {name: unit_holding_memory(host, name, mib) for name, mib in names.items()}
    async with running_daemon_and_systemd(tmp_path, host, tables, **units) as (client, systemd):
        for name in ("bad", "good"):
            lease, _ = await client.acquire(name)
            await client.release(lease)
        await systemd.configure("bad.service", **behaviour)

        _, grant = await client.acquire("wanted", timeout_usec=("t", 30_000_000))

        assert grant["evicted"] == ["good"]
        [(consumer, _, _, method, _, details)] = client.received("EvictionFailed")
        assert (consumer, method) == ("bad", "unit-stop")
        assert why in details["error"]
        stats = (await client.status())["stats"]
        assert (stats["evictions"], stats["eviction_failures"]) == (1, 1)


# -- starts --------------------------------------------------------------------------------------------------------

FAILING_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"load_state": "masked"}, "bad.service cannot be started: it is masked"),
    ({"load_state": "not-found"}, "bad.service cannot be started: systemd knows no such unit"),
    ({"start_result": "failed"}, "bad.service did not start: it failed (result exit-code)"),
    ({"start_result": "timeout"}, "(result timeout)"),
    ({"start_result": "dependency"}, "a unit that it depends on failed"),
    ({"condition_fails": True}, "a condition of the unit failed"),
    ({"access": "interactive"}, "systemd does not allow gpumand to start bad.service"),
    ({"start_delay_sec": 2.5}, "bad.service did not start within 1 s and is activating"),
]


@pytest.mark.parametrize(
    ("behaviour", "why"), FAILING_STARTS, ids=[str(next(iter(one[0].items()))) for one in FAILING_STARTS]
)
async def test_unit_that_cannot_be_started_is_reported(
    tmp_path: Path, host: LiveHost, behaviour: dict[str, Any], why: str
) -> None:
    tables = unit_table("bad", 8000, "load_timeout_sec = 1") + unit_table("good", 8000)
    units = {
        "bad": unit_holding_memory(host, "bad", 8000, **behaviour),
        "good": unit_holding_memory(host, "good", 8000),
    }
    async with running_daemon_and_systemd(tmp_path, host, tables, **units) as (client, _):
        asked = client.start_acquire("bad")
        good = client.start_acquire("good")  # on the same device: it waits for the failure and is served then
        error = await error_of(asked)

        assert error.name == ERROR + "LoadFailed"
        assert why in error.message
        assert (await good)[1]["loaded"]
        assert (await client.consumer("bad"))["residency"] == "failed"
        assert (await error_of(client.acquire("bad"))).name == ERROR + "ConsumerBackingOff"
        stats = (await client.status())["stats"]
        assert (stats["loads"], stats["load_failures"]) == (1, 1)


async def test_load_fails_at_once_when_its_unit_ends(tmp_path: Path, host: LiveHost) -> None:
    health = ['url = "http://127.0.0.1:1"', 'health = { path = "/health" }']
    units = {"bad": {"argv": ["sh", "-c", "sleep 0.5; exit 7"]}}
    async with running_daemon_and_systemd(tmp_path, host, unit_table("bad", 8000, *health), **units) as (client, _):
        error = await error_of(client.acquire("bad", timeout_usec=("t", 60_000_000)))
        assert error.name == ERROR + "LoadFailed"
        assert "bad.service ended while bad was loading (exit-code)" in error.message


# -- external changes ----------------------------------------------------------------------------------------------


async def test_external_unit_changes_are_noticed(tmp_path: Path, host: LiveHost) -> None:
    units = {
        "a": unit_holding_memory(host, "a", 14000, start_delay_sec=1.0),
        "b": unit_holding_memory(host, "b", 12000),
    }
    async with running_daemon_and_systemd(tmp_path, host, unit_table("a", 14000) + unit_table("b", 12000), **units) as (
        client,
        systemd,
    ):
        assert await is_residency(client, "a", "unloaded")
        await systemd.call_manager("StartUnit", "ss", "a.service", "replace")
        await wait_until("its start is noticed", is_residency, client, "a", "loading")
        [device] = (await client.status())["devices"]
        assert (device["used_mib"], device["reserved_mib"]) == (0, 14000), "its memory is reserved"
        _, grant = await client.acquire("b")  # waits until it is loaded, and evicts it
        assert grant["evicted"] == ["a"]
        await systemd.call_manager("StopUnit", "ss", "b.service", "replace")
        await wait_until("its stop is noticed", is_residency, client, "b", "unloaded")
        [lease] = (await client.status())["leases"]
        assert lease["consumer"] == "b", "the memory is reserved for its client"
        await client.release(lease["id"])


@pytest.mark.parametrize("start_delay_sec", [0.0, 1.0])
async def test_externally_started_service_has_its_memory_reserved(
    tmp_path: Path, host: LiveHost, start_delay_sec: float
) -> None:
    """systemd reports it as active before its model is loaded, with or without a start phase (ExecStartPre=)."""
    slow = unit_holding_memory(host, "a", 14000, start_delay_sec=start_delay_sec)
    slow["argv"][2] = f"while [ ! -e {tmp_path}/loads ]; do sleep 0.05; done; " + slow["argv"][2]
    tables = unit_table("a", 14000) + unit_table("b", 12000)
    async with running_daemon_and_systemd(tmp_path, host, tables, a=slow, b=unit_holding_memory(host, "b", 12000)) as (
        client,
        systemd,
    ):
        await systemd.call_manager("StartUnit", "ss", "a.service", "replace")
        await wait_until("its start is noticed", is_residency, client, "a", "resident")
        [device] = (await client.status())["devices"]
        assert (device["used_mib"], device["reserved_mib"]) == (0, 14000)
        acquiring = client.start_acquire("b")
        await wait_until("b is requested", has_waiting_request, client)
        (tmp_path / "loads").touch()
        _, grant = await acquiring
        assert grant["evicted"] == ["a"]
        [(_, _, freed_mib, *_)] = client.received("EvictionOccurred")
        assert freed_mib == 14000, "it was awaited until its memory could be observed"


# -- systemd itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    [
        {"job_removed": "before"},
        {"job_removed": "never"},
        {"start_delay_sec": 1.0, "stop_delay_sec": 1.0},
    ],
    ids=["result-before-the-answer", "result-never-sent", "slow"],
)
async def test_unit_jobs_are_awaited_with_every_kind_of_systemd_reply(
    tmp_path: Path, host: LiveHost, behaviour: dict[str, Any]
) -> None:
    tables = unit_table("a", 14000) + unit_table("b", 12000)
    units = {
        "a": unit_holding_memory(host, "a", 14000, **behaviour),
        "b": unit_holding_memory(host, "b", 12000, **behaviour),
    }
    async with running_daemon_and_systemd(tmp_path, host, tables, **units) as (client, _):
        lease, _ = await client.acquire("a", timeout_usec=("t", 60_000_000))
        await client.release(lease)
        _, grant = await client.acquire("b", timeout_usec=("t", 60_000_000))
        assert (grant["evicted"], grant["loaded"]) == (["a"], True)
        stats = (await client.status())["stats"]
        assert (stats["evictions"], stats["loads"], stats["load_failures"]) == (1, 2, 0)


async def test_units_are_refused_until_systemd_appears(tmp_path: Path, host: LiveHost) -> None:
    quick = await host.launch("routed", 3000, "--load-sec", "0.05")
    routes = (
        f'[consumers.routed]\nvram_resident_mib = 3000\nurl = "{quick.url}"\nload = {{ path = "/api/admin/load" }}\n'
    )
    async with running_daemon_and_systemd(tmp_path, host, unit_table("a", 8000) + routes) as (client, systemd):
        error = await error_of(client.acquire("a"))
        assert error.name == ERROR + "LoadFailed"
        assert "no systemd on this bus" in error.message
        assert (await client.acquire("routed"))[1]["loaded"]
        await systemd.boot({"a.service": unit_holding_memory(host, "a", 8000)})
        await systemd.call_manager("StartUnit", "ss", "a.service", "replace")
        await wait_until("systemd is noticed", is_residency, client, "a", "resident")
        assert not (await client.acquire("a"))[1]["loaded"]


async def test_subscription_is_restored_when_systemd_returns(tmp_path: Path, host: LiveHost) -> None:
    async def is_subscribed() -> bool:
        return await systemd.subscribed()

    async with running_daemon_and_systemd(
        tmp_path, host, unit_table("a", 8000), a=unit_holding_memory(host, "a", 8000)
    ) as (client, systemd):
        await systemd.reexec()
        await wait_until("the subscription is restored", is_subscribed)
        await asyncio.gather(load(client, "a"), load(client, "a"))
        await systemd.call_manager("StopUnit", "ss", "a.service", "replace")
        await wait_until("its stop is noticed", is_residency, client, "a", "unloaded")
