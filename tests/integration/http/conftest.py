"""The HTTP face on a real socket, with an arbiter that says what it is told."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumand.domain.consumer import HttpSettings
from gpumand.domain.events import EvictionOccurred, EvictionReport
from gpumand.http.listener import HttpListener
from tests.scripted_arbiter import ScriptedArbiter

EVICTION = EvictionOccurred(EvictionReport("ollama", "0", 4000, "http", "comfyui", "why", 4096, True, 12, ("http",)))


@dataclass
class Served:
    """A front on a Unix socket."""

    front: HttpListener
    arbiter: ScriptedArbiter
    where: str


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    where = str(tmp_path / "http.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen(256)
    listener.setblocking(False)
    arbiter = ScriptedArbiter()
    front = HttpListener(arbiter.status, [listener])
    await front.open(HttpSettings())
    yield Served(front, arbiter, where)
    await front.close()
