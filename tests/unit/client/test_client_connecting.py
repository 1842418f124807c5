"""A client has one connection, also when several tasks connect and close it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.client import client as module
from gpumand.client.client import Client


class Connection:
    """The methods of Calls that the client uses."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """All connections that the client opened; opening one yields to the event loop once."""
    opened = list[Connection]()

    async def connect(bus: str) -> Connection:
        await asyncio.sleep(0)
        opened.append(Connection())
        return opened[-1]

    monkeypatch.setattr(module, "connect", connect)
    return opened


async def test_concurrent_connects_leave_no_connection_open(connections: list[Connection]) -> None:
    client = Client()

    await asyncio.gather(client.connect(), client.connect())
    await client.close()

    assert [one.closed for one in connections] == [True]


async def test_close_during_connect_closes_the_connection(connections: list[Connection]) -> None:
    client = Client()
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0)

    await client.close()

    await connecting
    assert [one.closed for one in connections] == [True]
