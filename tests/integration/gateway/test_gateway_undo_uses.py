"""``gpumanctl init --undo`` asks a real daemon and a real gateway which services are in use."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gpumand.cli.errors import Failure
from gpumand.cli.gateway_api import GatewayApi
from gpumand.cli.setup.port_wait import SystemctlState
from gpumand.cli.swap_undo import work_check
from gpumand.cli.swap_undo.record import MovedService
from gpumand.config import load
from gpumand.testing.ports import free_port
from tests.integration.gateway.conftest import front
from tests.integration.gateway.live_gateway import http, live_gateway, work
from tests.integration.live import Client, LiveHost, live_host, wait_until

SERVICES = [MovedService(name, "", 1, 2) for name in ("embed", "fake", "llm")]
NOT_THE_GATEWAY = -1


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon of the test is no unit of the system, and there is no configuration in /etc."""
    monkeypatch.setattr(work_check, "unit_state", lambda unit: SystemctlState("activating"))
    monkeypatch.setattr(work_check, "_gateway_uid", lambda: NOT_THE_GATEWAY)


async def uses(host: LiveHost, port: int = 1) -> dict[str, str]:
    """Services in use, as the command finds them."""
    api = GatewayApi(f"127.0.0.1:{port}")
    return await asyncio.to_thread(work_check.services_in_use, host.bus.address, SERVICES, api)


async def has_lease(client: Client) -> bool:
    return bool((await client.status())["leases"])


async def test_a_lease_is_named_with_its_owner_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live_host(tmp_path, {"llm": 6000, "embed": 6000}) as host:
        monkeypatch.setattr(work_check, "load", lambda _: load(host.folder / "gpumand.toml"))
        assert await uses(host) == {}
        client = await host.client()
        lease, _ = await client.acquire("llm", reason=("s", "a film"))
        (name, what), *more = (await uses(host)).items()
        assert (name, more) == ("llm", [])
        assert what.startswith("leased to ")
        assert f"(lease {lease[:6]}, a film)" in what
        await client.release(lease)
        assert await uses(host) == {}


async def test_requests_in_the_gateway_count_and_its_last_lease_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    keys = f'listen = "127.0.0.1:{port}"\nlinger_sec = 60'
    async with (
        live_host(tmp_path, {"llm": 6000, "embed": 6000}) as host,
        live_gateway(host, {"llm": ""}, keys) as gateway,
        http() as session,
    ):
        monkeypatch.setattr(work_check, "load", lambda _: load(host.folder / "gpumand.toml"))
        monkeypatch.setattr(work_check, "_gateway_uid", os.getuid)
        client = await host.client()
        request = asyncio.ensure_future(work(session, gateway.url("llm"), 5.0))
        await wait_until("the request has a lease", lambda: has_lease(client))
        assert await uses(host, port) == {"llm": "used by 1 request in the gateway"}
        unknown = {"llm": "leased to the gateway, which does not say for how many requests"}
        assert await uses(host, free_port()) == unknown
        assert await request == 200
        assert await has_lease(client), "the gateway keeps the lease for the next request"
        assert await uses(host, port) == {}


async def test_work_that_a_service_reports_counts_without_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = 'busy = { path = "/prompt", pointers = ["/exec_info/queue_remaining"] }'
    async with front(tmp_path, consumer=busy) as made:
        monkeypatch.setattr(work_check, "load", lambda _: load(made.host.folder / "gpumand.toml"))
        lease, _ = await made.control.acquire("fake")
        await made.control.release(lease)
        assert await uses(made.host) == {}
        made.service.jobs = 2
        assert await uses(made.host) == {"fake": "at work on 2 jobs"}


async def test_a_daemon_that_does_not_answer_is_not_taken_for_one_without_leases(tmp_path: Path) -> None:
    async with live_host(tmp_path, {"llm": 6000}) as host:
        await host.end()
        with pytest.raises(Failure, match="the leases of gpumand are unknown"):
            await uses(host)


async def test_a_daemon_that_was_stopped_has_no_leases_and_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_host(tmp_path, {"llm": 6000}) as host:
        await host.end()
        monkeypatch.setattr(work_check, "unit_state", lambda unit: SystemctlState("inactive"))
        assert await uses(host) == {}


async def test_work_counts_also_while_the_daemon_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = 'busy = { path = "/prompt", pointers = ["/exec_info/queue_remaining"] }'
    async with front(tmp_path, consumer=busy) as made:
        monkeypatch.setattr(work_check, "load", lambda _: load(made.host.folder / "gpumand.toml"))
        monkeypatch.setattr(work_check, "unit_state", lambda unit: SystemctlState("inactive"))
        assert await uses(made.host) == {}
        made.service.jobs = 2
        assert await uses(made.host) == {"fake": "at work on 2 jobs"}
