"""HTTP endpoints on a real socket, with an arbiter that returns scripted values."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumand.domain.events import EvictionOccurred, EvictionReport
from gpumand.domain.output_settings import HttpSettings
from gpumand.http.listener import HttpListener
from tests.scripted_arbiter import ScriptedArbiter

EVICTION = EvictionOccurred(EvictionReport("ollama", "0", 4000, "http", "comfyui", "why", 4096, True, 12, ("http",)))


@dataclass
class Served:
    """A running HttpListener and the path of its Unix socket."""

    listener: HttpListener
    arbiter: ScriptedArbiter
    address: str


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    address = str(tmp_path / "http.sock")
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(address)
    passed.listen(256)
    passed.setblocking(False)
    arbiter = ScriptedArbiter()
    listener = HttpListener(arbiter.status, [passed])
    await listener.open(HttpSettings())
    yield Served(listener, arbiter, address)
    await listener.close()
