"""Drains that the store keeps or does not keep, and what happens when a part of the process fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpumand.domain.errors import NotNowError
from gpumand.fleet import process
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.row_json import encode_host
from gpumand.fleet.service import DRAINED, FleetService
from gpumand.fleet.settings import EtcdConfig, FleetConfig
from gpumand.fleet.store import Entry, Listing
from gpumand.testing.fleet_store import MemoryFleet, MemoryStore
from tests.unit.fleet.fleet_rows import host, machine_id


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[FleetService]:
    """The parts of gpu1, which are not started; there is no gpumand."""
    fleet = MemoryFleet(BoottimeClock(), "default")
    config = FleetConfig(
        host="gpu1",
        url="http://127.0.0.1:0",
        socket=tmp_path / "fleet.sock",
        bus=f"unix:path={tmp_path}/no-bus",
        etcd=EtcdConfig(("http://127.0.0.1:1",)),
    )
    made = FleetService(config, fleet.store(), machine_id(1))
    yield made
    await made.close()
    fleet.close()


def store_of(service: FleetService) -> MemoryStore:
    assert isinstance(service.store, MemoryStore)
    return service.store


async def test_requests_for_unknown_names_cause_shared_readings(service: FleetService) -> None:
    assert service._host._refresh == service.rows.read_again


async def test_drain_that_the_store_does_not_remove_goes_on(service: FleetService) -> None:
    assert await service.set_drain(True)
    store_of(service).cut_off()
    with pytest.raises(NotNowError, match="goes on"):
        await service.set_drain(False)
    assert service.rows.is_draining
    store_of(service).heal()
    assert await service.set_drain(False)
    assert not service.rows.is_draining


async def test_drain_that_the_store_does_not_keep_is_said_to_end_with_the_agent(service: FleetService) -> None:
    store_of(service).cut_off()
    assert await service.set_drain(True) is False
    assert service.rows.is_draining


@pytest.mark.parametrize("by_hand", [True, False])
async def test_only_the_drain_of_an_administrator_goes_on_after_a_restart(service: FleetService, by_hand: bool) -> None:
    keys, own = service._keys, replace(host(1), draining=True)
    entries = [Entry(keys.host(own.machine_id), encode_host(own), 5)]
    if by_hand:
        entries.append(Entry(keys.drain(own.machine_id), DRAINED, 6))
    service.table.apply(Listing(tuple(entries), 6))
    await service._restore_drain()
    assert service.rows.is_draining is by_hand


async def test_part_that_fails_unexpectedly_is_noted_and_one_that_is_cancelled_is_not(service: FleetService) -> None:
    async def part(error: BaseException) -> None:
        raise error

    for error, failed in ((asyncio.CancelledError(), False), (RuntimeError("a fault"), True)):
        task = asyncio.ensure_future(part(error))
        await asyncio.wait([task])
        service._report(task)
        assert service.failed.is_set() is failed


def test_process_whose_part_has_failed_ends_with_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[float] = []

    async def stop(drain_sec: float) -> None:
        stopped.append(drain_sec)

    async def start(_: Any) -> Any:
        failed = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, failed.set)
        parts = {"config": SimpleNamespace(host="gpu1"), "facts": SimpleNamespace(url="http://gpu1")}
        return SimpleNamespace(failed=failed, begin_stop=lambda: None, stop=stop, **parts)

    monkeypatch.setattr(process, "_start", start)
    with pytest.raises(SystemExit) as ended:
        process.run(lambda: FleetConfig(host="gpu1", url="http://gpu1"))
    assert ended.value.code == process.FAILURE_STATUS
    assert stopped, "its leases end in order"
