"""Requests in flight are counted, limited, and can be cancelled."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.gateway.bodies import BodyBudget
from gpumand.gateway.refusals import Refusal, Refused
from gpumand.gateway.requests import Client, Entry, RequestTable, State, WaitLimits
from gpumand.gateway.routes.classes import RouteClass

REMOTE, LOCAL = Client("10.0.0.1"), Client("127.0.0.1", is_local=True)


def waiting(table: RequestTable, client: Client) -> Entry:
    entry = table.add(client, "llm", "POST", "/x", RouteClass.WORK)
    table.begin_wait(entry)
    return entry


async def test_waiting_requests_of_one_remote_client_are_limited() -> None:
    table = RequestTable(WaitLimits(10, 2))
    first = waiting(table, REMOTE)
    waiting(table, REMOTE)
    with pytest.raises(Refused) as raised:
        waiting(table, REMOTE)
    waiting(table, Client("10.0.0.2"))

    assert raised.value.refusal.status == 429
    assert "10.0.0.1" in raised.value.refusal.message
    table.end_wait(first)
    table.end_wait(first)
    waiting(table, REMOTE)
    with pytest.raises(Refused):
        waiting(table, REMOTE)


async def test_programs_of_this_host_share_an_address_and_are_limited_in_total_only() -> None:
    table = RequestTable(WaitLimits(5, 2))
    entries = [waiting(table, LOCAL) for _ in range(5)]
    with pytest.raises(Refused):
        waiting(table, LOCAL)

    table.remove(entries[0])
    waiting(table, LOCAL)
    assert {entry.state for entry in entries[1:]} == {State.WAITING}


async def test_cancelled_request_ends_with_the_reason() -> None:
    table = RequestTable(WaitLimits())
    entries: list[Entry] = []

    async def handle() -> None:
        entries.append(table.add(LOCAL, "llm", "GET", "/", RouteClass.WORK))
        await asyncio.sleep(60)

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)

    assert table.cancel(entries[0].number, "too long")
    await asyncio.wait({task})

    assert task.cancelled()
    assert (entries[0].is_cancelled, entries[0].cancel_reason) == (True, "too long")
    assert entries[0].cancel_retry_sec == 5
    table.remove(entries[0])
    assert not table.cancel(entries[0].number)
    assert len(table) == 0


REVOKED = Refusal(401, "key_wrong", "This API key is not known.")


async def own_request(table: RequestTable) -> tuple[Entry, asyncio.Task[None]]:
    """A request whose task has begun."""
    entries: list[Entry] = []

    async def handle() -> None:
        entries.append(table.add(LOCAL, "llm", "POST", "/", RouteClass.WORK))
        await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    return entries[0], task


async def test_working_request_whose_key_was_revoked_ends_with_the_reason_of_a_later_cancellation() -> None:
    table = RequestTable(WaitLimits())
    entry, task = await own_request(table)
    entry.is_working = True
    table.refuse(entry, REVOKED)
    assert (entry.refusal, task.cancelling()) == (REVOKED, 0)

    table.cancel(entry.number, "too long")
    # A reload before the request has ended does not change the reason.
    table.refuse(entry, REVOKED)
    assert (entry.refusal, entry.cancel_reason) == (None, "too long")
    await asyncio.wait({task})


async def test_request_that_ends_because_its_key_was_revoked_keeps_that_reason() -> None:
    table = RequestTable(WaitLimits())
    entry, task = await own_request(table)
    table.refuse(entry, REVOKED)
    table.cancel(entry.number, "too long")

    assert entry.refusal == REVOKED
    await asyncio.wait({task})


def test_bodies_of_waiting_requests_are_limited_in_all() -> None:
    budget = BodyBudget(10)
    with budget.reserve(6):
        with pytest.raises(Refused), budget.reserve(5):
            pass
        with budget.reserve(4):
            pass
    with budget.reserve(10):
        pass
