"""Hosts without etcd find each other by asking, and so do hosts whose etcd is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.domain.errors import ConfigInvalid
from gpumand.fleet.changes import LocalEntries
from gpumand.fleet.degraded_watch import DegradedWatch
from gpumand.fleet.keys import Keys
from gpumand.fleet.member import Member, MemberState
from gpumand.fleet.peer_rows import PeerRows, PeerUnreachable
from gpumand.fleet.row_json import encode_host, parse_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.settings import EtcdConfig, FleetConfig
from gpumand.fleet.static_store import StaticStore
from gpumand.fleet.store import (
    Change,
    Entry,
    Interrupted,
    Listing,
    MembershipLost,
    Removed,
    StoreUnavailable,
    Written,
)
from gpumand.fleet.stores import DegradingEtcdStore, open_store
from gpumand.testing.clock import FakeClock
from tests.unit.fleet.rows import H1, H2, row

KEYS = Keys("lab")
URL2, URL3 = "http://h2:8447", "http://h3:8447"


class FakePeerRows(PeerRows):
    """Answers with the rows of a dictionary; a URL without a row does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, HostRow] = {}

    async def read(self, url: str) -> HostRow:
        await asyncio.sleep(0)
        if url not in self.rows:
            raise PeerUnreachable(f"{url}: no answer in time")
        return self.rows[url]


@pytest.fixture
def peers() -> FakePeerRows:
    return FakePeerRows()


@pytest.fixture
async def store(clock: FakeClock, peers: FakePeerRows) -> AsyncIterator[StaticStore]:
    found = StaticStore(KEYS, {"h2": URL2, "h3": URL3}, peers, clock)
    yield found
    await found.close()


async def hosts(store: StaticStore) -> list[HostRow]:
    return [parse_host(one.value) for one in (await store.list(KEYS.hosts)).entries]


# -- static peers ------------------------------------------------------------------------------------------------------


async def test_host_that_answers_is_listed_beside_this_host(
    clock: FakeClock, peers: FakePeerRows, store: StaticStore
) -> None:
    peers.rows[URL2] = row(H2, epoch=4)
    await store.join(row(H1))
    await clock.advance(0.5)
    assert [one.machine_id for one in await hosts(store)] == [H1, H2]
    peers.rows[URL2] = row(H2, epoch=4, seq=2)
    await clock.advance(1)
    assert (await hosts(store))[1].order == (4, 2)


async def test_host_that_no_longer_answers_is_lost_after_three_seconds(
    clock: FakeClock, peers: FakePeerRows, store: StaticStore
) -> None:
    peers.rows[URL2] = row(H2)
    await store.join(row(H1))
    await clock.advance(0.5)
    del peers.rows[URL2]
    await clock.advance(2)
    assert len(await hosts(store)) == 2
    await clock.advance(2)
    assert [one.machine_id for one in await hosts(store)] == [H1]
    peers.rows[URL2] = row(H2)
    await clock.advance(1)
    assert len(await hosts(store)) == 2


async def test_agent_whose_clock_was_set_back_is_removed_and_written_again(
    clock: FakeClock, peers: FakePeerRows, store: StaticStore
) -> None:
    peers.rows[URL2] = row(H2, epoch=100)
    changes = store.watch(KEYS.hosts)
    async with aclosing(changes):  # type: ignore[type-var]  # it is a generator
        await anext(changes)
        await clock.advance(0.5)
        assert isinstance(await anext(changes), Written)
        peers.rows[URL2] = row(H2, epoch=5)
        await clock.advance(1)
        assert isinstance(await anext(changes), Removed)
        again = await anext(changes)
        assert isinstance(again, Written)
        assert parse_host(again.entry.value).epoch == 5


async def test_host_with_a_new_machine_id_replaces_the_old_one(
    clock: FakeClock, peers: FakePeerRows, store: StaticStore
) -> None:
    peers.rows[URL2] = row("a" * 32)
    await store.join(row(H1))
    await clock.advance(0.5)
    peers.rows[URL2] = row("b" * 32)
    await clock.advance(1)
    assert [one.machine_id for one in await hosts(store)] == [H1, "b" * 32]


async def test_peer_with_the_machine_id_of_another_host_is_ignored(
    clock: FakeClock, peers: FakePeerRows, store: StaticStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.join(row(H1))
    peers.rows[URL2] = replace(row(H1, epoch=2**52), name="impostor")
    peers.rows[URL3] = row(H2)
    await clock.advance(2)
    assert [one.name for one in await hosts(store)] == ["h", "h"]
    assert "machine id of another host" in caplog.text


async def test_epoch_is_higher_after_a_restart(clock: FakeClock, peers: FakePeerRows, store: StaticStore) -> None:
    first = await store.join(row(H1))
    await clock.advance(1)
    again = StaticStore(KEYS, {}, peers, clock)
    assert (await again.join(row(H1))).epoch > first.epoch
    await again.close()


async def test_claims_are_refused_with_words(store: StaticStore) -> None:
    await store.join(row(H1))
    with pytest.raises(StoreUnavailable, match="Set up etcd"):
        await store.claim(KEYS.intent("llm"), "a", 15)


async def test_member_stays_joined_and_updates_its_row(clock: FakeClock, store: StaticStore) -> None:
    member = Member(store, clock, row(H1))
    task = asyncio.create_task(member.run())
    await clock.advance(10)
    member.publish(replace(row(H1), queue=7))
    await clock.advance(1)
    assert member.state is MemberState.JOINED
    assert (await hosts(store))[0].queue == 7
    task.cancel()
    await member.leave()
    assert await hosts(store) == []
    with pytest.raises(MembershipLost):
        await store.renew()


async def test_own_keys_are_kept_here_until_the_host_leaves(store: StaticStore) -> None:
    await store.join(row(H1))
    await store.put(KEYS.lease(H1, "a"), "{}")
    await store.put(KEYS.drain(H1), "drained", lasting=True)
    await store.leave()
    assert [one.key for one in (await store.list(KEYS.root)).entries] == [KEYS.drain(H1)]


# -- watches of entries in memory --------------------------------------------------------------------------------------


async def test_reader_that_is_too_slow_gets_a_listing() -> None:
    entries = LocalEntries()
    async with aclosing(entries.watch("/")) as changes:
        await anext(changes)
        for index in range(1500):
            entries.write("/key", str(index))
        found = [await anext(changes) for _ in range(500)]
    assert isinstance(found[0], Listing)
    assert isinstance(found[-1], Written)
    assert found[-1].entry.value == "1499"


# -- while etcd is gone ------------------------------------------------------------------------------------------------


class Scripted:
    """A watch that reports what the test says."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Change] = asyncio.Queue()

    async def changes(self) -> AsyncGenerator[Change, None]:
        while True:
            yield await self.queue.get()


def listed(*rows: HostRow) -> Listing:
    return Listing(tuple(Entry(KEYS.host(one.machine_id), encode_host(one), 7) for one in rows), 7)


async def test_rows_stay_fresh_while_etcd_is_gone(monkeypatch: pytest.MonkeyPatch, peers: FakePeerRows) -> None:
    monkeypatch.setattr("gpumand.fleet.degraded_watch.POLL_SEC", 0.01)
    known = replace(row(H2), url=URL2), replace(row(H1), url=URL3)
    newer = replace(known[0], seq=5, queue=3)
    peers.rows[URL2] = newer
    etcd = Scripted()
    async with asyncio.timeout(30), aclosing(DegradedWatch(KEYS, peers).changes(etcd.changes())) as changes:  # type: ignore[type-var]
        for change in (listed(*known), Interrupted("no leader")):
            etcd.queue.put_nowait(change)
            assert await anext(changes) == change
        assert await anext(changes) == Written(Entry(KEYS.host(H2), encode_host(newer), 7))
        back = listed(newer)
        etcd.queue.put_nowait(back)
        assert await anext(changes) == back


async def test_agent_with_another_machine_id_does_not_replace_a_known_host(
    monkeypatch: pytest.MonkeyPatch, peers: FakePeerRows
) -> None:
    monkeypatch.setattr("gpumand.fleet.degraded_watch.POLL_SEC", 0.01)
    peers.rows[URL2] = replace(row(H1, seq=9), url=URL2)
    peers.rows[URL3] = replace(row(H1, seq=2), url=URL3)
    etcd = Scripted()
    known = replace(row(H2), url=URL2), replace(row(H1), url=URL3)
    async with asyncio.timeout(30), aclosing(DegradedWatch(KEYS, peers).changes(etcd.changes())) as changes:  # type: ignore[type-var]
        for change in (listed(*known), Interrupted("no leader")):
            etcd.queue.put_nowait(change)
            await anext(changes)
        found = await anext(changes)
    assert found == Written(Entry(KEYS.host(H1), encode_host(peers.rows[URL3]), 7))


async def test_host_that_starts_without_etcd_finds_the_peers_of_its_configuration(
    monkeypatch: pytest.MonkeyPatch, peers: FakePeerRows
) -> None:
    monkeypatch.setattr("gpumand.fleet.degraded_watch.POLL_SEC", 0.01)
    peers.rows[URL2] = replace(row(H2), url=URL2)
    etcd = Scripted()
    watch = DegradedWatch(KEYS, peers, (URL2, URL3)).changes(etcd.changes())
    async with asyncio.timeout(30), aclosing(watch) as changes:  # type: ignore[type-var]
        etcd.queue.put_nowait(Interrupted("no answer"))
        await anext(changes)
        assert await anext(changes) == Written(Entry(KEYS.host(H2), encode_host(peers.rows[URL2]), 0))
        peers.rows[URL2] = replace(peers.rows[URL2], seq=9)
        assert await anext(changes) == Written(Entry(KEYS.host(H2), encode_host(peers.rows[URL2]), 0))


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_store_is_the_one_that_the_configuration_names(tmp_path: Path, clock: FakeClock) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n", encoding="utf-8")
    base = FleetConfig(host="h1", url="http://h1:8447")
    static = await open_store(base, clock, None)
    config = replace(base, peers={"h2": "http://h2:8447"}, etcd=EtcdConfig(("http://127.0.0.1:1",), "h1", password))
    etcd = await open_store(config, clock, None)
    assert isinstance(static, StaticStore)
    assert isinstance(etcd, DegradingEtcdStore)
    assert etcd._urls == ("http://h2:8447",)
    assert etcd._client._password == "secret"
    for one in (static, etcd):
        await one.close()


async def test_missing_password_file_is_reported(tmp_path: Path, clock: FakeClock) -> None:
    etcd = EtcdConfig(("http://127.0.0.1:1",), "h1", tmp_path / "missing")
    with pytest.raises(ConfigInvalid, match="missing"):
        await open_store(FleetConfig(host="h1", url="http://h1:8447", etcd=etcd), clock, None)


async def test_rows_under_the_key_of_another_host_or_beyond_the_limit_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, peers: FakePeerRows
) -> None:
    monkeypatch.setattr("gpumand.fleet.degraded_watch.POLL_SEC", 0.01)
    monkeypatch.setattr("gpumand.fleet.degraded_watch.MAX_HOSTS", 1)
    newer = replace(row(H2), url=URL2, seq=5, queue=3)
    peers.rows[URL2], peers.rows[URL3] = newer, replace(row(H1, seq=9), url=URL3)
    forged = Entry(KEYS.hosts + "x" * 32, encode_host(replace(row(H1), url=URL3)), 7)
    first, late = listed(replace(row(H2), url=URL2)).entries[0], listed(replace(row(H1), url=URL3)).entries[0]
    etcd = Scripted()
    async with asyncio.timeout(30), aclosing(DegradedWatch(KEYS, peers).changes(etcd.changes())) as changes:  # type: ignore[type-var]
        for change in (Listing((forged, first, late), 7), Interrupted("no leader")):
            etcd.queue.put_nowait(change)
            await anext(changes)
        assert await anext(changes) == Written(Entry(KEYS.host(H2), encode_host(newer), 7))
        back = listed(newer)
        etcd.queue.put_nowait(back)
        assert await anext(changes) == back, "no row of the other one was reported"
