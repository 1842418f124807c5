"""The row of a host follows its gpumand, and the leases that are published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gpumand.client.errors import NotRunning
from gpumand.fleet import row_source
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.lease_publisher import MAX_PUBLISHED, LeasePublisher
from gpumand.fleet.lease_rows import parse_lease
from gpumand.fleet.row_builder import HostFacts
from gpumand.fleet.row_source import RowSource
from gpumand.fleet.rows import HostRow
from gpumand.testing.fleet_store import MemoryFleet, MemoryStore
from tests.unit.fleet.fleet_rows import host, machine_id
from tests.waiting import until

FACTS = HostFacts(machine_id(1), "gpu1", "http://gpu1:8447")
NOW_USEC = 100_000_000


class ScriptedStatus:
    """A gpumand whose status a test sets."""

    def __init__(self) -> None:
        self.leases = 0
        self.is_running = True
        self.readings = self.learned_readings = 0
        self.changed: Callable[[], None] = lambda: None
        self.answers: list[asyncio.Future[None]] = []

    async def status(self) -> dict[str, Any]:
        self.readings += 1
        if not self.is_running:
            raise NotRunning("gpumand is not running")
        leases = self.leases
        if self.answers:
            await self.answers.pop(0)
        return {"consumers": [{"name": "chat", "residency": "resident", "leases": leases}], "queue": []}

    async def learned(self) -> dict[str, dict[str, Any]]:
        self.learned_readings += 1
        return {}

    async def watch(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        await asyncio.Event().wait()


class Published(list[HostRow]):
    """The rows that were published."""

    def __call__(self, row: HostRow, status: Mapping[str, Any]) -> None:
        self.append(row)


async def test_burst_of_changes_causes_few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_source, "PERIOD_SEC", 600.0)
    status, rows, clock = ScriptedStatus(), Published(), asyncio.get_running_loop().time
    began = clock()
    running = asyncio.ensure_future(RowSource(status, FACTS, rows).run())
    await until(lambda: rows, "the first row is published")
    for number in range(50):
        status.leases = number
        status.changed()
        await asyncio.sleep(0.001)
    await until(lambda: rows[-1].consumers["chat"].leases == 49, "the last change is published")
    assert status.readings <= 2 + (clock() - began) / row_source.MIN_INTERVAL_SEC
    assert status.learned_readings == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_row_is_read_regularly_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_source, "PERIOD_SEC", 0.25)
    rows = Published()
    running = asyncio.ensure_future(RowSource(ScriptedStatus(), FACTS, rows).run())
    await until(lambda: len(rows) >= 3, "it is read again")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_host_without_gpumand_has_no_consumers_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    status, rows = ScriptedStatus(), Published()
    source = RowSource(status, FACTS, rows)
    status.is_running = False
    for _ in range(3):
        await source.read()
    assert rows[-1].consumers == {}
    assert source.absence == "gpumand is not running"
    assert caplog.text.count("gpumand cannot be reached") == 1
    status.is_running = True
    await source.read()
    assert set(rows[-1].consumers) == {"chat"}
    assert source.absence == ""


async def test_drain_is_in_the_row() -> None:
    rows = Published()
    source = RowSource(ScriptedStatus(), FACTS, rows)
    source.is_draining = True
    await source.read()
    assert rows[-1].draining


async def test_requests_for_unknown_names_share_readings_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_source, "AGAIN_SEC", 0.2)
    status, rows = ScriptedStatus(), Published()
    source = RowSource(status, FACTS, rows)
    began_at = asyncio.get_running_loop().time()
    await asyncio.gather(*(source.read_again() for _ in range(50)))
    assert status.readings == 1
    status.leases = 1
    await asyncio.gather(*(source.read_again() for _ in range(50)))
    assert status.readings == 2
    assert rows[-1].consumers["chat"].leases == 1, "a request does without no reading"
    assert asyncio.get_running_loop().time() - began_at >= 0.19


async def test_request_that_comes_during_a_reading_waits_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_source, "AGAIN_SEC", 0.0)
    status, rows = ScriptedStatus(), Published()
    source = RowSource(status, FACTS, rows)
    answer = asyncio.get_running_loop().create_future()
    status.answers = [answer]
    first = asyncio.ensure_future(source.read_again())
    await until(lambda: status.readings, "the first reading has begun")
    status.leases = 1
    second = asyncio.ensure_future(source.read_again())
    answer.set_result(None)
    await asyncio.gather(first, second)
    assert rows[-1].consumers["chat"].leases == 1


async def test_older_reading_is_never_published_after_a_newer_one() -> None:
    status, rows = ScriptedStatus(), Published()
    source = RowSource(status, FACTS, rows)
    slow = asyncio.get_running_loop().create_future()
    status.answers = [slow]
    older = asyncio.ensure_future(source.read())
    await until(lambda: status.readings, "the older reading has begun")
    status.leases = 1
    newer = asyncio.ensure_future(source.read())
    for _ in range(20):
        await asyncio.sleep(0)
    slow.set_result(None)
    await asyncio.gather(older, newer)
    assert [row.consumers["chat"].leases for row in rows] == [0, 1]


async def test_request_that_is_cancelled_leaves_the_reading_to_the_others() -> None:
    status, rows = ScriptedStatus(), Published()
    source = RowSource(status, FACTS, rows)
    answer = asyncio.get_running_loop().create_future()
    status.answers = [answer]
    first, second = asyncio.ensure_future(source.read_again()), asyncio.ensure_future(source.read_again())
    await until(lambda: status.readings, "the reading has begun")
    first.cancel()
    answer.set_result(None)
    await second
    assert len(rows) == 1


# -- leases ----------------------------------------------------------------------------------------------------------


def lease(number: int, age_sec: float = 10.0) -> dict[str, Any]:
    granted_usec = NOW_USEC - int(age_sec * 1e6)
    return {"id": f"l{number}", "consumer": "chat", "owner": "alice", "granted_usec": granted_usec, "reason": "poster"}


@pytest.fixture
async def store() -> MemoryStore:
    memory = MemoryFleet(BoottimeClock())
    made = memory.store()
    await made.join(host(1))
    return made


async def published(store: MemoryStore) -> set[str]:
    prefix = store.fleet.keys.leases_of(machine_id(1))
    return {entry.key.removeprefix(prefix) for entry in (await store.list(prefix)).entries}


async def test_only_leases_older_than_two_seconds_are_published_and_removed_when_they_end(store: MemoryStore) -> None:
    publisher = LeasePublisher(store, store.fleet.keys, machine_id(1), "router of {}".format, lambda: NOW_USEC)
    running = asyncio.ensure_future(publisher.run())
    publisher.offer({"leases": [lease(1), lease(2, age_sec=1.0)]})
    await until(lambda: store.fleet.value(store.fleet.keys.lease(machine_id(1), "l1")), "it is published")
    assert await published(store) == {"l1"}
    value = store.fleet.value(store.fleet.keys.lease(machine_id(1), "l1"))
    assert value is not None
    assert parse_lease(value).via == "router of l1"
    publisher.offer({"leases": []})
    await until(lambda: not store.fleet.value(store.fleet.keys.lease(machine_id(1), "l1")), "it is removed")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.fleet.close()


async def test_leases_are_published_again_after_the_host_has_joined_again(store: MemoryStore) -> None:
    publisher = LeasePublisher(store, store.fleet.keys, machine_id(1), now_usec=lambda: NOW_USEC)
    running = asyncio.ensure_future(publisher.run())
    key = store.fleet.keys.lease(machine_id(1), "l1")
    publisher.offer({"leases": [lease(1)]})
    await until(lambda: store.fleet.value(key), "it is published")
    await store.join(host(1))
    assert store.fleet.value(key) is None
    publisher.joined(1)
    await until(lambda: store.fleet.value(key), "it is published again")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.fleet.close()


async def test_lease_that_ended_while_the_store_was_away_is_removed_afterwards(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    publisher = LeasePublisher(store, store.fleet.keys, machine_id(1), now_usec=lambda: NOW_USEC)
    publisher.joined(1)
    running = asyncio.ensure_future(publisher.run())
    key = store.fleet.keys.lease(machine_id(1), "l1")
    publisher.offer({"leases": [lease(1)]})
    await until(lambda: publisher._written, "it is published")

    async def remove(key: str) -> None:
        removed.append(key)

    monkeypatch.setattr(store, "remove", remove)
    publisher.offer({"leases": []})
    publisher.joined(1)
    await until(lambda: removed == [key], "it is removed")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    store.fleet.close()


async def test_number_of_published_leases_is_limited(store: MemoryStore) -> None:
    publisher = LeasePublisher(store, store.fleet.keys, machine_id(1), now_usec=lambda: NOW_USEC)
    publisher.offer({"leases": [lease(number) for number in range(MAX_PUBLISHED + 50)]})
    assert len(publisher._wanted) == MAX_PUBLISHED
    publisher.offer({"leases": "none"})
    publisher.offer({"leases": [None, {"id": 5}, {"granted_usec": "x"}]})
    assert not publisher._wanted
    store.fleet.close()
