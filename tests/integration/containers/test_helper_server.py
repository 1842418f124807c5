"""The server of the container helper: which requests it answers, several at a time, and when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from gpumand.root_helpers import containers
from gpumand.testing.container_engine import FakeContainer
from tests.integration.containers.helper_server import HelperServer
from tests.unit.root_helpers.helper_host import Host
from tests.waiting import DEADLINE_SEC, until


def serving(host: Host, folder: Path, uids: set[int], idle_sec: float | None = None) -> HelperServer:
    return HelperServer(str(folder / "helper.sock"), host.operations, uids, idle_sec)


def ask(path: str, line: bytes, limit_sec: float = DEADLINE_SEC) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(limit_sec)
        client.connect(path)
        client.sendall(line)
        with client.makefile("rb") as stream:
            answer = json.loads(stream.readline())
        assert isinstance(answer, dict)
        return answer


@pytest.mark.parametrize(
    "line", [b"\n", b"nonsense\n", b"[1]\n", b'{"do": ["stop"]}\n', b"x" * 20_000 + b"\n", b"[" * 4000 + b"\n"]
)
async def test_server_answers_invalid_requests_with_a_refusal(host: Host, tmp_path: Path, line: bytes) -> None:
    with serving(host, tmp_path, {os.getuid()}) as path:
        answer = await asyncio.to_thread(ask, path, line)
    assert answer["reason"] == "denied"


async def test_server_refuses_other_users(host: Host, tmp_path: Path) -> None:
    host.docker.containers = [FakeContainer("comfyui", status="running")]
    with serving(host, tmp_path, {os.getuid() + 1}) as path:
        answer = await asyncio.to_thread(ask, path, b'{"do": "stop", "container": "comfyui"}\n')
    assert (answer["reason"], host.docker.requests) == ("denied", [])


async def test_slow_stop_does_not_delay_other_requests(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, may_stop = host.docker._stop, asyncio.Event()

    async def stop_slowly(container: FakeContainer) -> tuple[int, bytes]:
        await may_stop.wait()
        return await stop(container)

    monkeypatch.setattr(host.docker, "_stop", stop_slowly)
    host.configure("comfyui", "llama")
    host.docker.containers = [
        FakeContainer("comfyui", status="running"),
        FakeContainer("llama", id="2" * 64, status="running"),
    ]
    with serving(host, tmp_path, {os.getuid()}) as path:
        stopping = asyncio.create_task(asyncio.to_thread(ask, path, b'{"do": "stop", "container": "comfyui"}\n'))
        await until(lambda: any(one.endswith("/stop") for one in host.docker.requests), "the stop has begun")
        state = await asyncio.to_thread(ask, path, b'{"do": "inspect", "container": "llama"}\n')
        assert (state["ok"]["running"], stopping.done()) == (True, False)
        may_stop.set()
        assert "ok" in await stopping


async def test_server_ends_when_idle(host: Host, tmp_path: Path) -> None:
    with serving(host, tmp_path, {os.getuid()}, idle_sec=0.05) as path:
        pass
    assert path  # leaving the context waits for the end of the server


async def test_server_ends_early_when_an_engine_may_have_appeared(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "STALE_SEC", 0.0)
    host.operations.is_stale = True
    with serving(host, tmp_path, {os.getuid()}, idle_sec=3600):
        pass
