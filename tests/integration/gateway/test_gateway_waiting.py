"""What clients get while they wait, what counts as use, and which refusals they see."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import WSMsgType

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.console import board
from tests.integration.gateway.fake_service import json_lines
from tests.integration.http.raw import exchange
from tests.integration.live import wait_until

IMPATIENT = "patience_sec = 0.4\ndrip_sec = 0.2"
COMFYUI = 'preset = "comfyui"'
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def has_queue(made: Front) -> bool:
    return bool((await made.control.status())["queue"])


async def has_leases(made: Front, count: int) -> bool:
    return len((await made.control.status())["leases"]) == count


async def asked(made: Front, path: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    async with made.session.request(more.pop("method", "POST"), made.url + path, **more) as answer:
        return answer.status, dict(answer.headers), await answer.read()


async def held(made: Front, path: str, body: dict[str, Any], seconds: float = 1.2) -> tuple[int, dict[str, str], bytes]:
    """Send a request that waits for a while, and return its answer."""
    lease = await made.block()
    waiting = asyncio.create_task(asked(made, path, json=body))
    await wait_until("the request waits", lambda: has_queue(made))
    await asyncio.sleep(seconds)
    assert not waiting.done()
    await made.control.release(lease)
    return await waiting


# -- signs of life -----------------------------------------------------------------------------------------------------


async def test_openai_stream_begins_with_comments_that_give_the_place_in_the_queue(tmp_path: Path) -> None:
    async with front(tmp_path, keys=IMPATIENT) as made:
        status, headers, body = await held(made, "/v1/chat/completions", CHAT | {"stream": True})

    lines = [line for line in body.decode().split("\n\n") if line]
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert "fake: place 1 of 1 in the queue" in lines[0]
    assert all(line.startswith(": ") for line in lines[:-3])
    assert lines[-3:] == ['data: {"word": "one"}', 'data: {"word": "two"}', "data: [DONE]"]


async def test_anthropic_stream_begins_with_pings(tmp_path: Path) -> None:
    async with front(tmp_path, keys=IMPATIENT) as made:
        _, headers, body = await held(made, "/v1/messages", CHAT | {"stream": True})

    assert headers["Content-Type"] == "text/event-stream"
    assert body.startswith(b'event: ping\ndata: {"type": "ping"}\n\n')


@pytest.mark.parametrize(("path", "key"), [("/api/chat", "message"), ("/api/generate", "response")])
async def test_ollama_stream_begins_with_empty_chunks(tmp_path: Path, path: str, key: str) -> None:
    async with front(tmp_path, keys=IMPATIENT) as made:
        _, headers, body = await held(made, path, CHAT | {"prompt": "hi"})

    first = json_lines(body)[0]
    assert headers["Content-Type"] == "application/x-ndjson"
    assert (first["model"], first["done"]) == ("m", False)
    assert not first[key] or first[key]["content"] == ""


async def test_plain_json_answer_begins_with_blanks(tmp_path: Path) -> None:
    async with front(tmp_path, keys=IMPATIENT) as made:
        status, headers, body = await held(made, "/v1/chat/completions", CHAT)

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert body.startswith(b"  ")
    assert json.loads(body)["choices"][0]["message"]["content"] == "hello"


async def test_other_requests_get_their_answer_unchanged_after_the_wait(tmp_path: Path) -> None:
    async with front(tmp_path, keys=IMPATIENT) as made:
        status, headers, body = await held(made, "/redirect?x=1", {"a": 1})
        assert made.service.paths()[-1] == "GET /elsewhere"

    assert status == 200
    assert json.loads(body)["path"] == "/elsewhere"
    assert headers["Content-Type"].startswith("application/json")


async def raw_echo(made: Front, version: str) -> bytes:
    """Send a request that waits for a second, and return all bytes of its answer."""
    sent = f"POST /echo HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
    lease = await made.block()
    waiting = asyncio.create_task(exchange(("127.0.0.1", made.gateway.ports["fake"]), sent.encode()))
    await wait_until("the request waits", lambda: has_queue(made))
    await asyncio.sleep(1.2)
    await made.control.release(lease)
    return await waiting


@pytest.mark.parametrize(
    ("listener", "version", "is_early"),
    [("early_status = true", "1.1", True), ("early_status = true", "1.0", False), ("", "1.1", False)],
)
async def test_other_requests_get_an_interim_status_where_the_listener_sends_it(
    tmp_path: Path, listener: str, version: str, is_early: bool
) -> None:
    async with front(tmp_path, listener=listener, keys=IMPATIENT) as made:
        answer = await raw_echo(made, version)

    early = b"HTTP/1.1 102 Processing\r\n\r\n"
    assert (answer.count(early) >= 2) is is_early
    final = answer.replace(early, b"")
    assert final.startswith(f"HTTP/{version} 200 ".encode())
    assert b'"body": "x"' in final


async def test_client_with_a_short_read_limit_waits_for_an_image_by_interim_statuses(tmp_path: Path) -> None:
    async with front(tmp_path, listener="early_status = true", keys=IMPATIENT) as made:
        lease = await made.block()
        async with httpx.AsyncClient(timeout=httpx.Timeout(30, read=1.5)) as client:
            waiting = asyncio.create_task(client.post(made.url + "/v1/images/generations", json={"prompt": "a cat"}))
            await wait_until("the request waits", lambda: has_queue(made))
            await asyncio.sleep(3)
            await made.control.release(lease)
            assert (await waiting).status_code == 200


async def test_error_of_the_service_after_signs_of_life_is_an_error_frame(tmp_path: Path) -> None:
    async with front(tmp_path, keys=IMPATIENT) as made:
        status, _, body = await held(made, "/v1/chat/completions", CHAT | {"stream": True, "fail": True})

    assert status == 200
    assert body.endswith(b'\n\ndata: {"error":{"message":"bad model"}}\n\n')


async def test_client_that_does_not_wait_long_gets_plain_answers_and_statuses(tmp_path: Path) -> None:
    async with front(tmp_path) as made:
        status, _, body = await held(made, "/v1/chat/completions", CHAT | {"stream": True, "fail": True})

    assert (status, json.loads(body)["error"]["message"]) == (400, "bad model")


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_wait_that_is_too_long_ends_in_the_form_of_the_api(tmp_path: Path) -> None:
    async with front(tmp_path, keys="wait_sec = 0.5") as made:
        lease = await made.block()
        openai = await asked(made, "/v1/chat/completions", json=CHAT)
        anthropic = await asked(made, "/v1/messages", json=CHAT)
        ollama = await asked(made, "/api/chat", json=CHAT)
        plain = await asked(made, "/echo", data=b"x")
        await made.control.release(lease)

    assert [one[0] for one in (openai, anthropic, ollama, plain)] == [429, 529, 503, 503]
    assert all(5 <= int(one[1]["Retry-After"]) <= 300 for one in (openai, anthropic, ollama, plain))
    assert all(one[1]["x-gpumand"] == "refused" for one in (openai, anthropic, ollama, plain))
    error = json.loads(openai[2])["error"]
    assert (error["code"], error["param"]) == ("gpu_busy", None)
    assert "Timed out after 0.5 s. fake: place 1 of 1 in the queue: fake needs " in error["message"]
    assert json.loads(anthropic[2])["error"]["type"] == "overloaded_error"
    assert json.loads(ollama[2])["error"].startswith("Timed out")
    assert plain[2].startswith(b"Timed out")


async def test_timeout_after_signs_of_life_is_an_error_frame(tmp_path: Path) -> None:
    async with front(tmp_path, keys=IMPATIENT + "\nwait_sec = 1") as made:
        lease = await made.block()
        status, _, body = await asked(made, "/v1/chat/completions", json=CHAT | {"stream": True})
        await made.control.release(lease)

    assert status == 200
    assert '"code":"gpu_busy"' in body.decode().rstrip().split("\n\n")[-1]


async def test_consumer_that_can_never_fit_is_refused_without_retries(tmp_path: Path) -> None:
    async with front(tmp_path, consumer="device = [7]") as made:
        status, headers, body = await asked(made, "/v1/chat/completions", json=CHAT)

    assert status == 503
    assert json.loads(body)["error"]["message"]
    assert "Retry-After" in headers or headers["x-should-retry"] == "false"


async def test_request_that_an_administrator_cancels_in_gpumand_is_refused_without_retries(tmp_path: Path) -> None:
    async with front(tmp_path) as made:
        lease = await made.block()
        waiting = asyncio.create_task(asked(made, "/v1/chat/completions", json=CHAT))
        await wait_until("the request waits", lambda: has_queue(made))
        (request,) = (await made.control.status())["queue"]
        await made.control.call("Cancel", "s", request["id"])
        status, headers, body = await waiting
        assert not await has_queue(made)
        await made.control.release(lease)

    assert (status, headers["x-should-retry"], "Retry-After" in headers) == (503, "false", False)
    assert json.loads(body)["error"]["code"] == "cancelled"
    assert "cancelled by " in json.loads(body)["error"]["message"]


async def test_routes_of_class_never_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "ollama"\nallow = ["POST /api/pull"]') as made:
        deleted = await asked(made, "/api/delete", method="DELETE", json={"model": "m"})
        encoded = await asked(made, "/api/%64elete", method="DELETE", json={"model": "m"})
        pulled = await asked(made, "/api/pull", json={"model": "m"})
        paths = made.service.paths()

    assert (deleted[0], encoded[0], pulled[0]) == (403, 403, 200)
    assert paths == ["POST /api/pull"]


async def test_request_that_unloads_an_ollama_model_is_answered_without_the_server(tmp_path: Path) -> None:
    async with front(tmp_path, 'preset = "ollama"') as made:
        status, _, body = await asked(made, "/api/generate", json={"model": "m", "keep_alive": 0})
        assert made.service.paths() == []
        await asked(made, "/api/generate", json={"model": "m", "keep_alive": 0, "prompt": "hi"})
        assert made.service.paths() == ["POST /api/generate"]

    assert (status, json.loads(body)["done_reason"]) == (200, "unload")


# -- what counts as use ------------------------------------------------------------------------------------------------


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
    assert took_sec < 0.05
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


async def test_preset_of_the_consumer_applies_where_the_listener_names_none(tmp_path: Path) -> None:
    async with front(tmp_path, consumer=COMFYUI) as made:
        assert (await asked(made, "/free", json={}))[0] == 403
        assert (await asked(made, "/history", method="GET"))[0] == 200
        assert await has_leases(made, 0)


async def test_requests_have_the_priority_of_their_listener(tmp_path: Path) -> None:
    async with front(tmp_path, "priority = 7") as made:
        lease = await made.block()
        waiting = asyncio.create_task(asked(made, "/echo", data=b"x"))
        await wait_until("the request waits", lambda: has_queue(made))

        assert [one["priority"] for one in (await made.control.status())["queue"]] == [7]

        await made.control.release(lease)
        assert (await waiting)[0] == 200


async def test_consumer_that_gpumand_does_not_know_is_named_in_the_refusal(tmp_path: Path) -> None:
    async with front(tmp_path, 'consumer = "other"') as made:
        look = await asked(made, "/", method="HEAD")
        work = await asked(made, "/echo", json={}, headers={"Accept": "application/json"})

    assert look[0] == 503
    assert (work[0], json.loads(work[2])["error"]["code"]) == (503, "no_such_consumer")
    assert "other" in json.loads(work[2])["error"]["message"]
    assert work[1]["x-should-retry"] == "false"
