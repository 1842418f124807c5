from __future__ import annotations

import asyncio

import pytest

from gpumand.bus.call_slots import CallSlots
from gpumand.bus.names import BUS_NAME, POLKIT, SYSTEMD


async def until_idle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_beyond_the_limit_are_sent_in_order_as_replies_arrive() -> None:
    slots, sent = CallSlots(2), list[int]()

    async def send(serial: int) -> None:
        await slots.take(SYSTEMD, serial)
        sent.append(serial)

    tasks = [asyncio.create_task(send(serial)) for serial in range(1, 6)]
    await until_idle()
    assert sent == [1, 2]

    slots.release(2)
    slots.release(1)
    await until_idle()
    assert sent == [1, 2, 3, 4]

    slots.release(3)
    await asyncio.gather(*tasks)
    assert sent == [1, 2, 3, 4, 5]


async def test_peer_that_hangs_delays_no_other_peer() -> None:
    slots = CallSlots(1)
    await slots.take(POLKIT, 1)
    hanging = asyncio.create_task(slots.take(POLKIT, 2))

    async with asyncio.timeout(30):
        await slots.take(SYSTEMD, 3)
    assert not hanging.done()
    hanging.cancel()


async def test_requests_to_gpumand_itself_may_wait_in_any_number() -> None:
    slots = CallSlots(1)
    async with asyncio.timeout(30):
        for serial in range(100):
            await slots.take(BUS_NAME, serial)


async def test_cancelled_call_leaves_its_place_to_the_next_one() -> None:
    slots = CallSlots(1)
    await slots.take(SYSTEMD, 1)
    cancelled, waiting = (asyncio.create_task(slots.take(SYSTEMD, serial)) for serial in (2, 3))
    await until_idle()

    cancelled.cancel()
    slots.release(1)

    async with asyncio.timeout(30):
        await waiting


async def test_call_cancelled_in_the_moment_of_its_turn_passes_the_turn_on() -> None:
    slots = CallSlots(1)
    await slots.take(SYSTEMD, 1)
    cancelled, waiting = (asyncio.create_task(slots.take(SYSTEMD, serial)) for serial in (2, 3))
    await until_idle()

    slots.release(1)
    cancelled.cancel()

    async with asyncio.timeout(30):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_loss_of_the_connection_ends_all_waits() -> None:
    slots = CallSlots(1)
    await slots.take(SYSTEMD, 1)
    waiting = [asyncio.create_task(slots.take(SYSTEMD, serial)) for serial in range(2, 9)]
    await until_idle()

    slots.release_all()

    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
