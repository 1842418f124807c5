"""MemoryStore behaves like the store on disk."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest

from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.ports import Store
from gpumand.testing.store import MemoryStore

LEASE = Lease("a1", "tts", "0", Owner(":1.5", 1000), LeaseLifetime.TTL, 10, 20, 9.0)


async def test_leases_are_read_oldest_first() -> None:
    memory = MemoryStore(LEASE)
    store: Store = memory
    older = replace(LEASE, id="b2", granted_usec=5)

    await store.put_lease(older)
    await store.put_consumer("tts", True, 7)

    assert await store.read_leases() == (older, LEASE)
    assert await store.read_consumers() == {"tts": (True, 7)}
    await store.put_load("tts", (1,), 9)
    assert await store.read_loads() == {"tts": ((1,), 9)}
    await store.drop_load("tts")
    assert await store.read_loads() == {}
    assert memory.writes == [("put", "b2"), ("consumer", "tts"), ("load", "tts"), ("loaded", "tts")]


async def test_dropping_a_missing_lease_is_not_an_error() -> None:
    store = MemoryStore(LEASE)

    await store.drop_lease("a1")
    await store.drop_lease("a1")

    assert await store.read_leases() == ()


async def test_full_disk_raises_and_changes_nothing() -> None:
    store = MemoryStore(LEASE)
    store.error = OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await store.put_lease(replace(LEASE, expires_usec=99))
    with pytest.raises(OSError, match="No space left"):
        await store.drop_lease("a1")

    store.error = None
    assert await store.read_leases() == (LEASE,)
    assert store.writes == []


async def test_stalled_writes_are_done_in_order_even_for_cancelled_callers() -> None:
    store = MemoryStore()
    store.stall()
    pending = [
        asyncio.ensure_future(store.put_lease(LEASE)),
        asyncio.ensure_future(store.drop_lease("a1")),
        asyncio.ensure_future(store.put_lease(replace(LEASE, expires_usec=99))),
        asyncio.ensure_future(store.read_leases()),
    ]
    await asyncio.sleep(0)
    assert store.writes == []

    pending[2].cancel()
    await asyncio.sleep(0)
    store.resume()
    await asyncio.wait(pending)

    assert store.writes == [("put", "a1"), ("drop", "a1"), ("put", "a1")]
    assert pending[3].result() == (replace(LEASE, expires_usec=99),)


async def test_write_lets_other_tasks_run_first() -> None:
    store = MemoryStore()
    put = asyncio.ensure_future(store.put_lease(LEASE))

    await asyncio.sleep(0)

    assert not put.done()
    await put
    await store.close()
    assert store.closed
