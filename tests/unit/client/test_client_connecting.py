"""One client, one connection, whoever connects and closes at the same time."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.client import client as module
from gpumand.client.client import Client


class Connection:
    """As much of Calls as is needed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Every connection that was made; each takes a turn of the loop."""
    connections = list[Connection]()

    async def connect(bus: str) -> Connection:
        await asyncio.sleep(0)
        connections.append(Connection())
        return connections[-1]

    monkeypatch.setattr(module, "connect", connect)
    return connections


async def test_connecting_twice_at_the_same_time_leaves_no_connection_behind(made: list[Connection]) -> None:
    client = Client()

    await asyncio.gather(client.connect(), client.connect())
    await client.close()

    assert [one.closed for one in made] == [True]


async def test_closing_while_it_connects_closes(made: list[Connection]) -> None:
    client = Client()
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0)

    await client.close()

    await connecting
    assert [one.closed for one in made] == [True]
