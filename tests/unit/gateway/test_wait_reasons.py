"""Why a request waits, as its client reads it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gpumand.gateway.parts import Parts
from gpumand.gateway.requests import Client
from gpumand.gateway.visibility import IN_USE

QUEUED = SimpleNamespace(position=1, waiting_for="bob, who renders")


class Status:
    """What is known of gpumand, which counts the looks at the queue and at the names."""

    def __init__(self) -> None:
        self.looks: list[str] = []

    async def place(self, consumer: str) -> tuple[Any, int]:
        self.looks.append("place")
        return QUEUED, 1

    async def names(self) -> tuple[str, ...]:
        self.looks.append("names")
        return ("llm", "bob")


async def reason(client: Client) -> tuple[str, list[str]]:
    status, unused = Status(), SimpleNamespace()
    parts: Any = Parts(unused, unused, status, unused, unused, lambda: "", unused, unused)  # type: ignore[arg-type]
    exchange = SimpleNamespace(client=client, service=SimpleNamespace(consumer="llm"))
    return await parts._reason(exchange), status.looks


@pytest.mark.parametrize(
    ("client", "text", "looks"),
    [
        (Client("root"), "llm: place 1 of 1 in the queue: bob, who renders", ["place"]),
        (Client("lena", consumers=frozenset({"llm"})), f"llm: waiting for {IN_USE}", ["place", "place"]),
    ],
)
async def test_only_clients_with_a_limited_key_need_a_second_look(client: Client, text: str, looks: list[str]) -> None:
    assert await reason(client) == (text, looks)
