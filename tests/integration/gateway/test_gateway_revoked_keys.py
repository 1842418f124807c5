"""A reload that takes a key's rights away ends its requests that wait or only look, and no work that has begun."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType

from gpumand.config.gateway_keys import hash_of
from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.live import wait_until

DEADLINE_SEC = 30.0
LEAKED, OTHER, ROTATED = "gpumand-leaked", "gpumand-other", "gpumand-rotated"
CHAT = {"model": "qwen3", "messages": [{"role": "user", "content": "hi"}]}
BOTH = f'[keys.leaked]\nsha256 = "{hash_of(LEAKED)}"\n[keys.other]\nsha256 = "{hash_of(OTHER)}"\n'
WITHOUT = f'[keys.other]\nsha256 = "{hash_of(OTHER)}"\n'


def bearer(secret: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {secret}"}}


def write_keys(folder: Path, text: str = BOTH) -> str:
    """Write the file with keys; returns the key of the configuration that names it."""
    (folder / "keys.toml").write_text(text, encoding="utf-8")
    return f'keys_file = "{folder / "keys.toml"}"'


@asynccontextmanager
async def guarded(folder: Path, keys: str = "", **more: Any) -> AsyncIterator[Entrance]:
    """An entrance with the keys leaked and other."""
    async with entrance(folder, keys=f"{write_keys(folder)}\n{keys}", **more) as made:
        await made.get("/v1/models", **bearer(OTHER))
        yield made


async def reload(made: Entrance | Front, text: str) -> None:
    """Change the keys. A new request with the leaked key must be refused after that."""
    write_keys(made.host.folder, text)
    assert made.gateway.process is not None
    made.gateway.process.send_signal(signal.SIGHUP)


async def is_out(made: Front) -> bool:
    async with made.session.get(f"{made.url}/list", **bearer(LEAKED)) as answer:
        return answer.status == 401


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        (WITHOUT, 401, "key_wrong"),
        (BOTH.replace(hash_of(LEAKED), hash_of(ROTATED)), 401, "key_wrong"),
        (BOTH.replace("[keys.other]", 'consumers = ["ollama"]\n[keys.other]'), 403, "consumer_not_allowed"),
    ],
)
async def test_waiting_request_is_refused_when_its_key_loses_the_right_and_others_go_on(
    tmp_path: Path, text: str, status: int, code: str
) -> None:
    async with guarded(tmp_path) as made, asyncio.timeout(DEADLINE_SEC):
        lease = await made.block()
        leaked = asyncio.create_task(made.post("/v1/chat/completions", CHAT, **bearer(LEAKED)))
        await made.wait_for_queue()
        other = asyncio.create_task(made.post("/v1/chat/completions", CHAT, **bearer(OTHER)))
        local = asyncio.create_task(made.post("/v1/chat/completions", CHAT))
        await wait_until("three requests wait", lambda: is_waiting(made, 3))
        await reload(made, text)
        refused, refusal = await leaked
        assert not other.done()
        assert not local.done()
        await made.control.release(lease)
        served = await other, await local

    assert (refused, refusal["error"]["code"]) == (status, code)
    assert [one for one, _ in served] == [200, 200]
    assert len(made.llama.bodies) == 2


async def is_waiting(made: Entrance, count: int) -> bool:
    _, document = await made.get("/gateway/v1/requests", **bearer(OTHER))
    return [one["state"] for one in document["requests"]].count("waiting") == count


async def test_waiting_stream_that_has_begun_ends_with_an_error_of_its_api(tmp_path: Path) -> None:
    async with guarded(tmp_path, keys="patience_sec = 0.2\ndrip_sec = 0.2") as made, asyncio.timeout(DEADLINE_SEC):
        lease = await made.block()
        url = f"{made.url}/v1/chat/completions"
        async with made.session.post(url, json=CHAT | {"stream": True}, **bearer(LEAKED)) as answer:
            begin = await answer.content.readuntil(b"\n\n")
            await reload(made, WITHOUT)
            rest = await answer.content.read()
        await made.control.release(lease)

    assert begin.startswith(b": ")
    assert b"This API key is not known" in rest
    assert made.llama.bodies == []


async def test_upload_of_a_revoked_key_is_refused_before_it_ends(tmp_path: Path) -> None:
    async with guarded(tmp_path) as made, asyncio.timeout(DEADLINE_SEC):
        sent, may_end = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'{"model": "qwen3", '
            sent.set()
            await may_end.wait()

        headers = bearer(LEAKED)["headers"] | {"Content-Type": "application/json"}
        posting = asyncio.create_task(made.session.post(f"{made.url}/v1/completions", data=body(), headers=headers))
        await sent.wait()
        await wait_until("the upload is listed", lambda: is_listed(made))
        await reload(made, WITHOUT)
        async with await posting as answer:
            status = answer.status
        may_end.set()

    assert status == 401


async def test_upload_is_refused_at_its_end_if_its_key_is_not_for_the_consumer_any_more(tmp_path: Path) -> None:
    async with guarded(tmp_path) as made, asyncio.timeout(DEADLINE_SEC):
        may_end = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'{"model": "qwen3", "messages": ['
            await may_end.wait()
            yield b"]}"

        headers = bearer(LEAKED)["headers"] | {"Content-Type": "application/json"}
        url = f"{made.url}/v1/chat/completions"
        posting = asyncio.create_task(made.session.post(url, data=body(), headers=headers))
        await wait_until("the upload is listed", lambda: is_listed(made))
        await reload(made, BOTH.replace("[keys.other]", 'consumers = ["ollama"]\n[keys.other]'))
        await wait_until("the key is limited", lambda: is_limited(made))
        may_end.set()
        async with await posting as answer:
            status, refusal = answer.status, await answer.json()

    assert (status, refusal["error"]["code"]) == (403, "consumer_not_allowed")
    assert made.llama.bodies == []


async def is_limited(made: Entrance) -> bool:
    status, _ = await made.post("/v1/chat/completions", CHAT, **bearer(LEAKED))
    return status != 200


async def is_listed(made: Entrance) -> bool:
    _, document = await made.get("/gateway/v1/requests", **bearer(OTHER))
    return bool(document["requests"])


async def test_load_that_a_revoked_key_waits_for_is_refused(tmp_path: Path) -> None:
    async with guarded(tmp_path) as made, asyncio.timeout(DEADLINE_SEC):
        lease = await made.block()
        path = "/gateway/v1/consumers/llama/load"
        waiting = asyncio.create_task(made.post(path, {}, **bearer(LEAKED)))
        await made.wait_for_queue()
        await reload(made, WITHOUT)
        status, refusal = await waiting
        await made.control.release(lease)

    assert (status, refusal["error"]["code"]) == (401, "key_wrong")


async def test_answer_whose_work_has_begun_goes_on_to_its_end(tmp_path: Path) -> None:
    async with front(tmp_path, keys=write_keys(tmp_path)) as made, asyncio.timeout(DEADLINE_SEC):
        url = f"{made.url}/stream?chunks=20&pause=0.1"
        async with made.session.post(url, **bearer(LEAKED)) as answer:
            first = await answer.content.readline()
            await reload(made, WITHOUT)
            await wait_until("the key is refused", lambda: is_out(made))
            rest = await answer.content.read()

    assert (first + rest).split() == [str(number).encode() for number in range(20)]


async def opened(made: Front) -> Any:
    socket = await made.session.ws_connect(f"{made.url}/ws", **bearer(LEAKED))
    await socket.send_str("hello")
    assert (await socket.receive()).data == "echo hello"
    return socket


@pytest.mark.parametrize("listener", ['websocket = "look"', 'websocket = "work"\nws_idle_sec = 0.2'])
async def test_websocket_without_work_is_closed_when_its_key_is_revoked(tmp_path: Path, listener: str) -> None:
    async with front(tmp_path, listener, write_keys(tmp_path) + "\nlinger_sec = 0") as made:
        async with asyncio.timeout(DEADLINE_SEC):
            await load(made)
            socket = await opened(made)
            await wait_until("no lease is held", lambda: has_leases(made, 0))
            await reload(made, WITHOUT)
            message = await socket.receive()

    assert (message.type, socket.close_code) == (WSMsgType.CLOSE, 1008)
    assert "This API key is not known" in str(message.extra)


async def load(made: Front) -> None:
    async with made.session.post(f"{made.url}/work", **bearer(OTHER)) as answer:
        assert answer.status == 200


async def has_leases(made: Front, count: int) -> bool:
    return len((await made.control.status())["leases"]) == count


async def test_websocket_at_work_passes_results_and_no_further_message_of_a_revoked_key(tmp_path: Path) -> None:
    listener = 'websocket = "work"\nws_idle_sec = 600'
    async with front(tmp_path, listener, write_keys(tmp_path)) as made, asyncio.timeout(DEADLINE_SEC):
        socket = await opened(made)
        await reload(made, WITHOUT)
        await wait_until("the key is refused", lambda: is_out(made))
        (own,) = made.service.sockets
        await own.send_str("a late result")
        late = await socket.receive()
        await socket.send_str("more work")
        message = await socket.receive()
        await wait_until("the service's side is closed", lambda: has_no_socket(made))

    assert late.data == "a late result"
    assert (message.type, socket.close_code) == (WSMsgType.CLOSE, 1008)


async def has_no_socket(made: Front) -> bool:
    return not made.service.sockets


async def test_websocket_whose_work_ends_after_its_key_was_revoked_is_closed(tmp_path: Path) -> None:
    listener = 'websocket = "work"\nws_idle_sec = 3'
    async with front(tmp_path, listener, write_keys(tmp_path)) as made, asyncio.timeout(DEADLINE_SEC):
        socket = await opened(made)
        await reload(made, WITHOUT)
        message = await socket.receive()

    assert (message.type, socket.close_code) == (WSMsgType.CLOSE, 1008)


async def test_request_of_a_key_that_stays_is_served_after_a_reload_without_any_key(tmp_path: Path) -> None:
    """The header with the key does not reach the service, although the gateway has no keys any more."""
    async with guarded(tmp_path) as made, asyncio.timeout(DEADLINE_SEC):
        lease = await made.block()
        waiting = asyncio.create_task(made.post("/v1/chat/completions", CHAT, **bearer(LEAKED)))
        await made.wait_for_queue()
        await reload(made, "")
        await wait_until("no key is known", lambda: is_open(made))
        await made.control.release(lease)
        status, _ = await waiting

    assert status == 200
    (headers,) = [one for method, path, one in made.llama.seen if path == "/v1/chat/completions"]
    assert "Authorization" not in headers


async def is_open(made: Entrance) -> bool:
    status, _ = await made.get("/gateway/v1/session", **bearer("gpumand-any"))
    return status == 200
