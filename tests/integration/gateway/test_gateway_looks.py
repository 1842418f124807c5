"""What counts as use: open pages and polls neither hold nor wake a service, and WebSockets of work do."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.console import board
from tests.integration.gateway.waiting_requests import COMFYUI, asked, has_leases, has_queue
from tests.integration.live import wait_until


async def test_open_page_with_websocket_and_polls_neither_holds_nor_wakes_the_service(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI) as made, made.session.ws_connect(f"{made.url}/ws") as socket:
        for _ in range(5):
            assert (await asked(made, "/queue", method="GET"))[0] == 200
            assert (await asked(made, "/api/userdata/workflows%2Fa.json", data=b"{}"))[0] == 200
            await socket.send_str("ping")
            assert (await socket.receive()).data == "echo ping"
        assert await has_leases(made, 0)

        lease = await made.block()

        assert (await asked(made, "/queue", method="GET"))[0] == 200
        assert await has_leases(made, 1)
        assert not await has_queue(made)
        made.service.abort_sockets()
        message = await socket.receive()
        await made.control.release(lease)

    assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)


async def test_stopped_service_is_not_woken_by_looks_but_its_lists_are_answered(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "ollama"') as made:
        tags = await asked(made, "/api/tags", method="GET")
        await made.service.stop()
        took_sec = 60.0
        for _ in range(5):  # the fastest one, since other processes of the host may be busy
            began = time.monotonic()
            remembered = await asked(made, "/api/tags", method="GET")
            took_sec = min(took_sec, time.monotonic() - began)
        other = await asked(made, "/api/ps", method="GET")
        began = time.monotonic()
        with pytest.raises(Exception, match="503"):
            await made.session.ws_connect(f"{made.url}/ws")
        slow_sec = time.monotonic() - began
        assert await has_leases(made, 0)
        assert not await has_queue(made)

    assert (remembered[0], remembered[2]) == (200, tags[2])
    assert took_sec < 0.5
    assert (other[0], other[1]["Retry-After"]) == (503, "5")
    assert slow_sec >= 1.0


async def test_stopped_ollama_answers_the_first_request_of_its_own_program(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "ollama"') as made:
        await asked(made, "/", method="GET")
        tags = await asked(made, "/api/tags", method="GET")
        await asked(made, "/api/version", method="HEAD")
        await made.service.stop()
        head = await asked(made, "/", method="HEAD")
        listed = await asked(made, "/api/tags", method="HEAD")
        never_read = await asked(made, "/api/version", method="GET")
        assert await has_leases(made, 0)

    assert (head[0], head[2]) == (200, b"")
    assert (listed[0], listed[1]["Content-Length"], listed[2]) == (200, str(len(tags[2])), b"")
    assert never_read[0] == 503, "an answer to HEAD has no body that GET could get"


async def test_stopped_ollama_answers_what_was_asked_of_a_model_before(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "ollama"') as made:
        asked_before = {"model": "qwen3"}
        shown = await asked(made, "/api/show", json=asked_before)
        await asked(made, "/api/show", json={"model": "big", "more": "x" * 9000})
        secret = await asked(made, "/api/show", json=asked_before, headers={"Authorization": "Bearer a"})
        seen = len(made.service.paths())
        await made.service.stop()
        remembered = await asked(made, "/api/show", json=asked_before)
        other_model = await asked(made, "/api/show", json={"model": "gemma3"})
        too_long = await asked(made, "/api/show", json={"model": "big", "more": "x" * 9000})
        other_key = await asked(made, "/api/show", json=asked_before, headers={"Authorization": "Bearer b"})
        assert await has_leases(made, 0)
        assert not await has_queue(made)

    assert seen == 3, "questions are passed on while the server runs"
    assert (shown[0], secret[0], remembered[0], remembered[2]) == (200, 200, 200, shown[2])
    assert [one[0] for one in (other_model, too_long, other_key)] == [503, 503, 503]


async def test_client_that_leaves_does_not_take_a_shared_answer_from_others(tmp_path: Path) -> None:
    async with board(tmp_path, listener='preset = "ollama"') as own:
        made = own.front
        path = "/slow?sec=2"
        first = asyncio.create_task(asked(made, path, method="GET"))

        async def is_asked() -> bool:
            return f"GET {path}" in made.service.paths()

        await wait_until("the service is asked", is_asked)
        leaving = [asyncio.create_task(asked(made, path, method="GET")) for _ in range(2)]
        staying = asyncio.create_task(asked(made, path, method="GET"))

        async def all_wait() -> bool:
            return len((await own.get("requests"))["requests"]) == 4

        await wait_until("all requests are in flight", all_wait)
        for one in leaving:
            one.cancel()
        answers = await asyncio.gather(first, staying)
        late = await asked(made, path, method="GET")

    assert [one[0] for one in (*answers, late)] == [200, 200, 200]
    assert made.service.paths().count(f"GET {path}") == 1


async def test_clients_do_not_get_the_cookies_of_others(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "ollama"') as made:
        plain = {"cookie_jar": aiohttp.DummyCookieJar(), "connector": aiohttp.TCPConnector(limit=0)}
        async with aiohttp.ClientSession(**plain) as session:  # type: ignore[arg-type]

            async def cookie() -> str:
                async with session.get(f"{made.url}/session") as answer:
                    return answer.headers["Set-Cookie"]

            together = await asyncio.gather(*(cookie() for _ in range(4)))
            cookies = [*together, await cookie()]

    assert len(set(cookies)) == 5


async def test_pages_of_other_web_sites_do_not_load_models(tmp_path: Path) -> None:
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    frame = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe", "Accept": "text/html"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Accept": "text/html"}
    async with front(tmp_path, COMFYUI) as made:
        work = await asked(made, "/prompt", headers=image)
        look = await asked(made, "/queue", method="GET", headers=image)
        runs = await asked(made, "/", method="GET", headers=frame)
        await made.service.stop()
        framed = await asked(made, "/?stopped", method="GET", headers=frame)
        assert await has_leases(made, 0)
        assert not await has_queue(made)
        linked = await asked(made, "/?stopped", method="GET", headers=link)

    assert (work[0], look[0], runs[0]) == (403, 200, 200)
    assert b"Pages of other web sites" in work[2]
    assert (framed[0], framed[1]["x-gpumand"]) == (403, "refused")
    assert (linked[0], linked[1]["x-gpumand"]) == (503, "waiting")


async def test_identical_looks_within_a_second_share_one_request(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI) as made:
        answers = await asyncio.gather(*(asked(made, "/queue", method="GET") for _ in range(30)))
        other = await asked(made, "/queue", method="GET", headers={"Authorization": "Bearer x"})

        assert {one[0] for one in answers} == {200}
        assert other[0] == 200
        assert made.service.paths().count("GET /queue") == 2


async def test_browser_gets_a_page_while_the_service_is_stopped_and_the_service_is_loaded(tmp_path: Path) -> None:
    html = {"Accept": "text/html,application/xhtml+xml"}
    async with front(tmp_path, COMFYUI) as made:
        lease = await made.block()
        await made.service.stop()

        status, headers, body = await asked(made, "/", method="GET", headers=html)

        async def shows_its_place() -> bool:
            return b"Place in the queue" in (await asked(made, "/", method="GET", headers=html))[2]

        await wait_until("the page shows the place in the queue", shows_its_place)
        script = await asked(made, "/", method="GET")

        assert (status, headers["x-gpumand"], headers["Retry-After"]) == (503, "waiting", "5")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"<h1>fake is being loaded</h1>" in body
        assert script[0] == 503
        assert b"<h1>" not in script[2]
        await made.service.start()
        await made.control.release(lease)
        await wait_until("the queue is empty", lambda: is_empty(made))
        assert (await asked(made, "/", method="GET", headers=html))[0] == 200


async def is_empty(made: Front) -> bool:
    return not await has_queue(made)


async def test_websocket_of_class_work_holds_a_lease_while_messages_are_exchanged(tmp_path: Path) -> None:
    async with front(tmp_path, 'websocket = "work"\nws_idle_sec = 1', keys="linger_sec = 0") as made:
        async with made.session.ws_connect(f"{made.url}/ws") as socket:
            await wait_until("a lease is held", lambda: has_leases(made, 1))
            await wait_until("the idle WebSocket has no lease", lambda: has_leases(made, 0))

            await socket.send_str("hello")

            assert (await socket.receive()).data == "echo hello"
            assert await has_leases(made, 1)
        await wait_until("the closed WebSocket has no lease", lambda: has_leases(made, 0))
