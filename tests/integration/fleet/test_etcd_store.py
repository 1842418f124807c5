"""The store of a fleet in a real etcd: claims, leases, watches, restarts and lost answers."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.etcd_client import EtcdClient, Limits
from gpumand.fleet.etcd_store import EtcdStore
from gpumand.fleet.keys import Keys
from gpumand.fleet.member import Member, MemberState
from gpumand.fleet.row_json import encode_host, parse_host
from gpumand.fleet.store import (
    Change,
    Claim,
    Denied,
    FleetStore,
    Interrupted,
    Listing,
    MembershipLost,
    Removed,
    StoreUnavailable,
    UnknownOutcome,
    Written,
)
from tests.integration.fleet.plain_etcd import LossyProxy, PlainEtcd, running_etcd
from tests.integration.fleet.tls_etcd import encoded, needs_etcd
from tests.unit.fleet.rows import H1, H2, row
from tests.waiting import until

pytestmark = needs_etcd

DEADLINE_SEC = 30.0
PATIENT = Limits(connect_sec=10, attempt_sec=10, call_sec=25)
"""For a machine that is slow: these tests are not about time."""

fleets = count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[PlainEtcd]:
    with running_etcd() as found:
        yield found


@pytest.fixture
def keys() -> Keys:
    """A fleet of its own for every test."""
    return Keys(f"fleet{next(fleets)}")


Open = Callable[..., EtcdStore]


@pytest.fixture
async def opened(etcd: PlainEtcd, keys: Keys) -> AsyncIterator[Open]:
    stores: list[EtcdStore] = []

    def new(*urls: str, ttl_sec: float = 10.0, limits: Limits = PATIENT) -> EtcdStore:
        client = EtcdClient(urls or (etcd.url,), limits=limits)
        stores.append(EtcdStore(client, keys, BoottimeClock(), ttl_sec))
        return stores[-1]

    yield new
    for one in stores:
        await one.close()


def raw(etcd: PlainEtcd, path: str, **body: Any) -> dict[str, Any]:
    """Call etcd directly."""
    request = urllib.request.Request(f"{etcd.url}/v3/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=DEADLINE_SEC) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


async def keys_of(store: EtcdStore, prefix: str) -> list[str]:
    return [one.key for one in (await store.list(prefix)).entries]


# -- hosts -------------------------------------------------------------------------------------------------------------


async def test_host_joins_updates_its_row_and_leaves(opened: Open, keys: Keys) -> None:
    store = opened()
    membership = await store.join(row(epoch=5_000_000))
    assert membership.ttl_sec == 10
    assert await store.update(row(epoch=5_000_000, seq=2)) > membership.revision
    found = await store.list(keys.hosts)
    assert [parse_host(one.value).order for one in found.entries] == [(5_000_000, 2)]
    await store.leave()
    assert await keys_of(store, keys.root) == []


async def test_older_row_does_not_replace_a_newer_one(etcd: PlainEtcd, opened: Open, keys: Keys) -> None:
    store = opened()
    await store.join(row(epoch=5_000_000, seq=1))
    newer = encode_host(row(epoch=5_000_000, seq=9))
    raw(etcd, "kv/put", key=encoded(keys.host(H1)), value=encoded(newer), ignore_lease=True)
    await store.update(row(epoch=5_000_000, seq=8))
    assert (await store.list(keys.hosts)).entries[0].value == newer
    await store.update(row(epoch=5_000_000, seq=10))
    assert parse_host((await store.list(keys.hosts)).entries[0].value).order == (5_000_000, 10)


async def test_agent_that_starts_again_gets_a_higher_epoch_and_replaces_the_row(opened: Open, keys: Keys) -> None:
    killed, next_one = opened(), opened()
    await killed.join(row(epoch=5_000_000))
    assert (await next_one.join(row(epoch=7))).epoch == 5_000_001
    await killed.leave()
    assert await keys_of(next_one, keys.hosts) == [keys.host(H1)]  # the lease of the killed agent has no row any more


async def test_epoch_rises_although_the_earlier_row_is_gone(opened: Open) -> None:
    first, next_one = opened(), opened()
    before = (await first.join(row())).epoch
    await first.leave()
    assert (await next_one.join(row())).epoch > before


async def test_host_with_the_machine_id_of_another_host_does_not_join(opened: Open, keys: Keys) -> None:
    first, copy = opened(), opened()
    await first.join(row(H1))
    with pytest.raises(Denied, match=r"the host h .* machine id"):
        await copy.join(replace(row(H1), name="copy", url="https://copy:8447"))
    with pytest.raises(MembershipLost):
        await copy.claim(keys.unique("llm"), H1)
    await first.leave()
    await copy.join(replace(row(H1), name="copy", url="https://copy:8447"))


async def test_row_disappears_when_it_is_not_renewed_and_the_host_learns_it(opened: Open, keys: Keys) -> None:
    store, other = opened(ttl_sec=2), opened()
    await store.join(row())
    async with watching(other, keys.hosts) as changes:
        await until(lambda: any(isinstance(one, Removed) for one in changes))
    with pytest.raises(MembershipLost):
        await store.renew()
    with pytest.raises(MembershipLost):
        await store.update(row(seq=2))
    with pytest.raises(MembershipLost):
        await store.claim(keys.unique("llm"), H1)
    assert (await store.join(row(seq=3))).revision > 0


async def test_renewal_extends_the_lease_by_its_whole_time(etcd: PlainEtcd, opened: Open, keys: Keys) -> None:
    store = opened(ttl_sec=60)
    await store.join(row())
    await until(lambda: remaining_sec(etcd, keys.host(H1)) < 60)
    await store.renew()
    await until(lambda: remaining_sec(etcd, keys.host(H1)) >= 59)


def remaining_sec(etcd: PlainEtcd, key: str) -> int:
    """Seconds until the lease of a key ends."""
    lease = raw(etcd, "kv/range", key=encoded(key))["kvs"][0]["lease"]
    return int(raw(etcd, "lease/timetolive", ID=lease)["TTL"])


async def test_other_keys_of_a_host_go_with_its_lease_and_pins_stay(opened: Open, keys: Keys) -> None:
    store = opened()
    await store.join(row())
    await store.put(keys.lease(H1, "a1"), "{}")
    await store.put(keys.pin("llm"), H1, lasting=True)
    await store.leave()
    assert await keys_of(store, keys.root) == [keys.pin("llm")]
    await store.remove(keys.pin("llm"))
    await store.remove(keys.pin("llm"))
    assert await keys_of(store, keys.root) == []


async def test_list_of_many_keys_is_complete(opened: Open, keys: Keys) -> None:
    store = opened()
    names = [f"c{index:03}" for index in range(300)]
    await asyncio.gather(*(store.put(keys.pin(one), H1, lasting=True) for one in names))
    assert await keys_of(store, keys.pins) == [keys.pin(one) for one in names]


# -- claims ------------------------------------------------------------------------------------------------------------


async def test_one_of_many_concurrent_claims_wins(opened: Open, keys: Keys) -> None:
    stores = [opened() for _ in range(4)]
    claims = await asyncio.gather(
        *(
            store.claim(keys.intent("llm"), f"{index}-{turn}", 15)
            for turn in range(5)
            for index, store in enumerate(stores)
        )
    )
    winner = [one for one in claims if one.ok]
    assert len(winner) == 1
    assert {(one.value, one.revision) for one in claims} == {(winner[0].value, winner[0].revision)}


async def test_claim_can_be_repeated_and_is_released_by_its_value_only(opened: Open, keys: Keys) -> None:
    first, second, key = opened(), opened(), keys.intent("llm")
    claim = await first.claim(key, "a", 15)
    assert await first.claim(key, "a", 15) == claim
    await second.release(key, "b")
    assert not (await second.claim(key, "b", 15)).ok
    await first.release(key, "a")
    assert (await second.claim(key, "b", 15)).revision > claim.revision


async def test_claim_ends_after_its_time(opened: Open, keys: Keys) -> None:
    store = opened()
    async with watching(store, keys.intents) as changes:
        await store.claim(keys.intent("llm"), "a", 1)
        await until(lambda: any(isinstance(one, Removed) for one in changes))


async def test_repeated_claim_lasts_for_its_whole_time_again(etcd: PlainEtcd, opened: Open, keys: Keys) -> None:
    store, key = opened(), keys.intent("llm")
    await store.claim(key, "a", 60)
    await until(lambda: remaining_sec(etcd, key) < 59)
    await store.claim(key, "a", 60)
    assert remaining_sec(etcd, key) >= 59


async def test_claim_replaces_a_former_one_of_the_same_host_and_no_other(opened: Open, keys: Keys) -> None:
    killed, store, other = opened(), opened(), opened()
    key = keys.unique("llm")
    await killed.join(row(H1))
    await killed.claim(key, "one")
    await store.join(row(H1))
    await other.join(row(H2))

    assert not (await store.claim(key, "two")).ok
    assert not (await store.claim(key, "two", former="none")).ok
    assert (await store.claim(key, "two", former="one")).ok
    assert (await store.claim(key, "two", former="one")).ok, "it can be repeated"
    await killed.release(key, "one")
    await killed.leave()
    assert (await other.claim(key, "three")).value == "two", "neither a late release nor the old lease ends it"


async def test_unique_claim_of_a_killed_agent_passes_to_the_lease_of_the_next(opened: Open, keys: Keys) -> None:
    killed, next_one, other = opened(ttl_sec=2), opened(), opened()
    await killed.join(row())
    claim = await killed.claim(keys.unique("llm"), H1)
    await next_one.join(row(epoch=2))
    assert await next_one.claim(keys.unique("llm"), H1) == claim
    async with watching(other, keys.uniques) as changes:
        await until_lost(killed, keys)
        assert not any(isinstance(one, Removed) for one in changes)
    await next_one.leave()
    assert (await opened_and_joined(other)).ok


async def until_lost(store: EtcdStore, keys: Keys) -> None:
    """Wait until the lease of a host ends."""
    async with asyncio.timeout(DEADLINE_SEC):
        with suppress(MembershipLost):
            while await store.put(keys.lease(H1, "x"), "{}"):  # noqa: ASYNC110  # see above
                await asyncio.sleep(0.1)


async def opened_and_joined(store: EtcdStore) -> Claim:
    await store.join(row(H2))
    return await store.claim(store._keys.unique("llm"), H2)


# -- watches -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def watching(store: FleetStore, prefix: str) -> AsyncIterator[list[Change]]:
    """Collect the changes below a prefix; the first listing has arrived."""
    found: list[Change] = []

    async def collect() -> None:
        async with aclosing(store.watch(prefix)) as changes:  # type: ignore[type-var]  # it is a generator
            async for one in changes:
                found.append(one)  # noqa: PERF401  # each one at once

    task = asyncio.create_task(collect())
    try:
        await until(lambda: bool(found) or task.done())
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_watch_reports_a_listing_and_then_each_change(opened: Open, keys: Keys) -> None:
    store = opened()
    await store.join(row(H1))
    async with watching(opened(), keys.root) as changes:
        await store.claim(keys.intent("llm"), "a", 15)
        await store.leave()
        await until(lambda: len(changes) >= 3)
    listing, written, removed = changes[:3]
    assert isinstance(listing, Listing)
    assert [one.key for one in listing.entries] == [keys.host(H1)]
    assert isinstance(written, Written)
    assert (written.entry.key, written.entry.value) == (keys.intent("llm"), "a")
    assert isinstance(removed, Removed)
    assert removed.key == keys.host(H1)
    assert removed.revision > written.entry.revision > listing.revision


class CompactingClient(EtcdClient):
    """A client whose first watch begins at a revision that was compacted after the listing."""

    def __init__(self, etcd: PlainEtcd, key: str) -> None:
        super().__init__((etcd.url,), limits=PATIENT)
        self._etcd = etcd
        self._key = key
        self.is_compacted = False

    def stream(self, *args: Any) -> Any:
        if not self.is_compacted:
            self.is_compacted = True
            for value in ("missed", "missed too", "last"):
                revision = raw(self._etcd, "kv/put", key=encoded(self._key), value=encoded(value))["header"]["revision"]
            raw(self._etcd, "kv/compaction", revision=revision)
        return super().stream(*args)


async def test_watch_that_missed_compacted_changes_reports_a_new_listing(etcd: PlainEtcd, keys: Keys) -> None:
    store = EtcdStore(CompactingClient(etcd, keys.pin("llm")), keys, BoottimeClock())
    async with watching(store, keys.pins) as changes:
        await until(lambda: len(changes) >= 2)
        await store.put(keys.pin("llm"), "after", lasting=True)
        await until(lambda: len(changes) >= 3)
    await store.close()
    first, second, third = changes
    assert isinstance(first, Listing)
    assert first.entries == ()
    assert isinstance(second, Listing)
    assert [one.value for one in second.entries] == ["last"]
    assert isinstance(third, Written)
    assert third.entry.value == "after"


# -- members that fail -------------------------------------------------------------------------------------------------


async def test_member_that_was_killed_and_started_again_has_lost_nothing(keys: Keys) -> None:
    with running_etcd() as etcd:
        client = EtcdClient((etcd.url,), limits=PATIENT)
        store = EtcdStore(client, keys, BoottimeClock(), ttl_sec=30)
        member = Member(store, BoottimeClock(), row())
        task = asyncio.create_task(member.run())
        try:
            await until(lambda: member.state is MemberState.JOINED)
            async with watching(store, keys.hosts) as changes:
                etcd.kill()
                await until(lambda: isinstance(changes[-1], Interrupted))
                assert await asyncio.to_thread(etcd.start)
                await until(lambda: sum(isinstance(one, Listing) for one in changes) == 2)
                listing = [one for one in changes if isinstance(one, Listing)][-1]
                assert [one.key for one in listing.entries] == [keys.host(H1)]
            await until(lambda: member.state is MemberState.JOINED)
            assert member.fence.generation == 1  # the lease is still the first one
        finally:
            task.cancel()
            await asyncio.wait([task])
            await store.close()


async def test_endpoint_that_refuses_connections_is_passed_over(etcd: PlainEtcd, opened: Open, keys: Keys) -> None:
    store = opened("http://127.0.0.1:1", etcd.url)
    await store.join(row())
    async with watching(store, keys.hosts) as changes:
        assert isinstance(changes[0], Listing)


async def test_endpoint_that_never_answers_is_passed_over(etcd: PlainEtcd, opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and no process reads
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = opened(url, etcd.url, limits=Limits(attempt_sec=1.5, call_sec=25))
        assert (await store.join(row())).revision > 0
        await store.close()


async def test_store_without_any_endpoint_is_unavailable(opened: Open, keys: Keys) -> None:
    store = opened("http://127.0.0.1:1", limits=Limits(call_sec=0.5))
    with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:1"):
        await store.join(row())
    with pytest.raises(StoreUnavailable):
        await store.list(keys.hosts)


async def test_etcd_without_users_is_asked_once_for_a_login(etcd: PlainEtcd, proxy: LossyProxy, keys: Keys) -> None:
    client = EtcdClient((await proxy.start(),), user="gpu1", password="secret", limits=PATIENT)
    store = EtcdStore(client, keys, BoottimeClock())
    await store.join(row())
    await store.renew()
    assert proxy.paths.count("/v3/auth/authenticate") == 1
    await store.close()


# -- lost answers ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(etcd: PlainEtcd) -> AsyncIterator[LossyProxy]:
    found = LossyProxy(etcd.url)
    yield found
    await found.close()


async def test_writes_whose_answers_are_lost_are_done_once(proxy: LossyProxy, opened: Open, keys: Keys) -> None:
    store = opened(await proxy.start())
    steps: list[Callable[[], Any]] = [
        lambda: store.join(row(epoch=5_000_000)),
        store.renew,
        lambda: store.update(row(epoch=5_000_000, seq=2)),
        lambda: store.claim(keys.intent("llm"), "a", 15),
        lambda: store.claim(keys.unique("llm"), H1),
    ]
    results = []
    for step in steps:
        proxy.lose = 2
        results.append(await step())
    assert proxy.lose == 0
    assert (results[0].epoch, results[3].ok, results[4].ok) == (5_000_000, True, True)
    assert await keys_of(store, keys.root) == [keys.host(H1), keys.intent("llm"), keys.unique("llm")]
    assert parse_host((await store.list(keys.hosts)).entries[0].value).order == (5_000_000, 2)
    ends: list[Callable[[], Awaitable[object]]] = [
        lambda: store.release(keys.unique("llm"), H1),
        store.leave,
        lambda: store.remove(keys.intent("llm")),
    ]
    for end in ends:
        proxy.lose = 1
        await end()
    assert await keys_of(store, keys.root) == []


async def test_claim_whose_answers_are_all_lost_has_an_unknown_outcome(
    proxy: LossyProxy, opened: Open, keys: Keys
) -> None:
    url = await proxy.start()
    store, key = opened(url, limits=Limits(call_sec=1.0)), keys.intent("llm")
    proxy.lose = 1000
    with pytest.raises(UnknownOutcome):
        await store.put(keys.pin("llm"), H1, lasting=True)
    with pytest.raises(StoreUnavailable):
        await store.list(keys.pins)
    proxy.lose = 0
    assert (await opened(url).claim(key, "a", 15)).ok
