"""What clients get while they wait, and which refusals they see."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.fake_service import json_lines
from tests.integration.gateway.waiting_requests import CHAT, COMFYUI, IMPATIENT, asked, has_leases, has_queue, held
from tests.integration.live import DEADLINE_SEC, wait_until

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


EARLY = b"HTTP/1.1 102 Processing\r\n\r\n"


async def raw_echo(made: Front, version: str, early: int) -> bytes:
    """Send a request that waits for a number of interim statuses, or a second, and return all bytes of its answer."""
    sent = f"POST /echo HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
    lease = await made.block()
    async with asyncio.timeout(DEADLINE_SEC):
        reader, writer = await asyncio.open_connection("127.0.0.1", made.gateway.ports["fake"])
        writer.write(sent.encode())
        await wait_until("the request waits", lambda: has_queue(made))
        begin = b"".join([await reader.readuntil(EARLY) for _ in range(early)])
        if not early:
            await asyncio.sleep(1.2)
        await made.control.release(lease)
        answer = begin + await reader.read()
        writer.close()
    return answer


@pytest.mark.parametrize(
    ("listener", "version", "is_early"),
    [("early_status = true", "1.1", True), ("early_status = true", "1.0", False), ("", "1.1", False)],
)
async def test_other_requests_get_an_interim_status_where_the_listener_sends_it(
    tmp_path: Path, listener: str, version: str, is_early: bool
) -> None:
    async with front(tmp_path, listener=listener, keys=IMPATIENT) as made:
        answer = await raw_echo(made, version, 2 if is_early else 0)

    assert (answer.count(EARLY) >= 2) is is_early
    final = answer.replace(EARLY, b"")
    assert final.startswith(f"HTTP/{version} 200 ".encode())
    assert b'"body": "x"' in final


async def test_client_with_a_short_read_limit_waits_for_an_image_by_interim_statuses(tmp_path: Path) -> None:
    async with front(tmp_path, listener="early_status = true", keys=IMPATIENT) as made:
        lease = await made.block()
        async with httpx.AsyncClient(timeout=httpx.Timeout(30, read=4)) as client:
            waiting = asyncio.create_task(client.post(made.url + "/v1/images/generations", json={"prompt": "a cat"}))
            await wait_until("the request waits", lambda: has_queue(made))
            await asyncio.sleep(5)
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
