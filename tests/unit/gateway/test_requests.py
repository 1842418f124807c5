"""Requests in flight are counted, limited, and can be cancelled."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.gateway.bodies import BodyBudget
from gpumand.gateway.refusals import Refused
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


def test_bodies_of_waiting_requests_are_limited_in_all() -> None:
    budget = BodyBudget(10)
    with budget.reserve(6):
        with pytest.raises(Refused), budget.reserve(5):
            pass
        with budget.reserve(4):
            pass
    with budget.reserve(10):
        pass
