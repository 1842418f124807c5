"""Commands and webhooks: what they are given, and what happens if they fail or hang."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.notify.config import Hook
from gpumand.notify.delivery import deliver
from gpumand.notify.notices import Notice, NoticeKind
from gpumand.notify.rate import Delivery
from tests.waiting import until, until_ended

TEXT = "llm could not be loaded: $(touch /tmp/owned); `id` \"'"
DELIVERY = Delivery((Notice(NoticeKind.LOAD_FAILED, "llm", TEXT), Notice(NoticeKind.LOAD, "b", "b was loaded")), 3)


def pid_in(file: Path) -> int:
    return int(file.read_text())


async def test_a_command_gets_the_notice_and_no_other_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    script = 'cat > "$0/stdin"; env > "$0/env"; printf %s "$GPUMAND_TEXT" > "$0/text"'
    assert await deliver(Hook(name="a", command=("/bin/sh", "-c", script, str(tmp_path))), DELIVERY)
    given = json.loads((tmp_path / "stdin").read_text())
    assert given["events"][0] == {"event": "load-failed", "consumer": "llm", "text": TEXT}
    assert given["left_out"] == 3
    assert (tmp_path / "text").read_text() == f"{TEXT}\nb was loaded\nand 3 more events"
    environment = (tmp_path / "env").read_text()
    assert "GPUMAND_EVENT=load-failed\n" in environment
    assert "SECRET" not in environment


@pytest.mark.parametrize(
    "command", [("/bin/false",), ("/nonexistent",), ("/etc/passwd",), ("/bin/sh", "-c", "kill -9 $$")]
)
async def test_a_failing_command_is_only_logged(command: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    assert not await deliver(Hook(name="mine", command=command), DELIVERY)
    assert "hook mine failed" in caplog.text


async def test_a_hanging_command_is_killed_with_its_children(tmp_path: Path) -> None:
    script = 'sleep 300 & echo $! > "$0.new"; mv "$0.new" "$0"; wait'
    pid_file = tmp_path / "pid"
    assert not await deliver(
        Hook(name="a", command=("/bin/sh", "-c", script, str(pid_file)), timeout_sec=1.0), DELIVERY
    )
    await until_ended(pid_in(pid_file))


async def test_a_cancelled_delivery_leaves_no_command_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    hook = Hook(
        name="a", command=("/bin/sh", "-c", 'echo $$ > "$0.new"; mv "$0.new" "$0"; exec sleep 300', str(pid_file))
    )
    task = asyncio.create_task(deliver(hook, DELIVERY))
    await until(pid_file.exists, "the command runs")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_ended(pid_in(pid_file))


@asynccontextmanager
async def server(status: int, received: list[tuple[str, object]]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        received.append((request.headers.get("Authorization", ""), await request.json()))
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_post("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook?token=hidden"
    finally:
        await runner.cleanup()


async def test_a_webhook_gets_the_notice_with_its_headers() -> None:
    received: list[tuple[str, object]] = []
    async with server(200, received) as url:
        hook = Hook(name="a", webhook=url, headers=(("Authorization", "Bearer x"),))
        assert await deliver(hook, DELIVERY)
    [(authorization, body)] = received
    assert authorization == "Bearer x"
    assert isinstance(body, dict)
    assert body["text"] == body["content"] == body["message"]
    assert body["text"].startswith(TEXT)


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_a_webhook_that_refuses_is_logged_and_not_followed(status: int, caplog: pytest.LogCaptureFixture) -> None:
    received: list[tuple[str, object]] = []
    async with server(status, received) as url:
        assert not await deliver(Hook(name="mine", webhook=url), DELIVERY)
    assert len(received) == 1
    assert f"hook mine failed: its webhook answered {status}" in caplog.text


async def test_the_address_of_a_webhook_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not await deliver(Hook(name="mine", webhook="http://127.0.0.1:1/?token=hidden"), DELIVERY)
    assert "hook mine failed" in caplog.text
    assert "hidden" not in caplog.text
    assert "hidden" not in repr(Hook(name="a", headers=(("Authorization", "hidden"),)))
