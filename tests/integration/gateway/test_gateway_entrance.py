"""One address for all models: requests are routed by their model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import WSMsgType

from gpumand.gateway.entrance_config import GATEWAY
from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.test_gateway_http import INVALID, head, status_of
from tests.integration.http.raw import exchange
from tests.integration.live import wait_until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


async def raw(made: Entrance, sent: str) -> bytes:
    return await exchange(("127.0.0.1", made.gateway.ports[GATEWAY]), sent.encode("latin-1"))


# -- routing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/messages",
        "/v1/messages/count_tokens",
    ],
)
async def test_requests_go_to_the_consumer_that_serves_their_model(door: Entrance, path: str) -> None:
    first = await door.post(path, CHAT | {"model": "org/phi-4"})
    second = await door.post(path, CHAT | {"model": "qwen3:8b"})

    assert (first[0], second[0]) == (200, 200)
    assert (door.llama.used, door.ollama.used) == (["org/phi-4"], ["qwen3:8b"])


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/show"])
async def test_requests_of_ollama_go_to_consumers_with_its_api(door: Entrance, path: str) -> None:
    status, _ = await door.post(path, CHAT | {"model": "gemma3"})
    other, refusal = await door.post("/api/chat", CHAT | {"model": "qwen3"})

    assert (status, door.ollama.used) == (200, ["gemma3"])
    assert (other, list(refusal)) == (400, ["error"])
    assert "llama does not have the API of Ollama" in refusal["error"]
    assert door.llama.used == []


async def test_body_passes_unchanged_and_a_form_of_curl_counts_as_json(door: Entrance) -> None:
    text = '{ "prompt":"x",\n "model" : "qwen3", "n": 1e0 }'
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with door.session.post(f"{door.url}/v1/echo", data=text, headers=form) as answer:
        found = await answer.json()

    assert (answer.status, found["body"]) == (200, text)


async def test_renamed_models_change_one_word_of_the_body(tmp_path: Path) -> None:
    tables = '[gateway.models]\n"gpt-*" = { consumer = "llama", as = "qwen3" }\nsmall = "ollama"\n'
    async with entrance(tmp_path, tables=tables) as made:
        text = '{"a": "gpt-5",  "model": "gpt-5", "b": {"model": "gpt-5"}}'
        async with made.session.post(f"{made.url}/v1/echo", data=text) as answer:
            found = await answer.json()
        await made.post("/v1/completions", {"model": "small"})
        await made.post("/v1/completions", {"model": "ollama/qwen3:8b"})
        _, listed = await made.get("/v1/models")

    assert found["body"] == text.replace('"model": "gpt-5",', '"model": "qwen3",')
    assert made.ollama.used == ["small", "qwen3:8b"]
    assert [one["id"] for one in listed["data"]] == ["small", "qwen3", "org/phi-4", "gemma3:latest", "qwen3:8b"]


async def test_unknown_model_is_refused_with_the_known_ones_in_the_form_of_the_api(door: Entrance) -> None:
    openai = await door.post("/v1/chat/completions", CHAT | {"model": "nothing"})
    anthropic = await door.post("/v1/messages", CHAT | {"model": "nothing"})
    ollama = await door.post("/api/chat", CHAT | {"model": "nothing"})

    assert [openai[0], anthropic[0], ollama[0]] == [404, 404, 404]
    assert openai[1]["error"]["code"] == "model_not_found"
    assert "qwen3, org/phi-4, gemma3:latest" in openai[1]["error"]["message"]
    assert anthropic[1]["type"] == "error"
    assert "There is no model 'nothing'" in ollama[1]["error"]
    assert door.llama.bodies == door.ollama.bodies == []


async def test_model_that_a_server_got_a_moment_ago_is_found(door: Entrance) -> None:
    door.ollama.models.append("new:latest")

    async with asyncio.timeout(30):
        # The server is asked again for an unknown model, but at most once in a while.
        while (await door.post("/api/chat", CHAT | {"model": "new"}))[0] != 200:  # noqa: ASYNC110 - another process answers
            await asyncio.sleep(0.2)

    assert door.ollama.used == ["new"]


async def test_request_without_a_model_goes_to_the_only_consumer_with_its_route_or_to_the_default(
    tmp_path: Path,
) -> None:
    async with entrance(tmp_path / "a") as made:
        only = await made.post("/api/echo", CHAT)
        nothing, refusal = await made.post("/nothing", CHAT)
    async with entrance(tmp_path / "b", keys='default_model = "llama"') as made:
        default = await made.post("/v1/completions", {"prompt": "x"})

        assert (made.llama.bodies, default[0]) == ([{"prompt": "x"}], 200)
    assert (only[0], only[1]["path"]) == (200, "/api/echo")
    assert (nothing, refusal["error"]["code"]) == (404, "no_such_route")


async def test_ambiguous_bodies_never_reach_a_service(door: Entrance) -> None:
    for text in (
        '{"model":"qwen3","Model":"x"}',
        '{"model":"qwen3","model":"x"}',
        '{"model":3}',
        "[]",
        "x",
        '{"model":',
    ):
        async with door.session.post(f"{door.url}/v1/completions", data=text) as answer:
            assert answer.status == 400, text
    async with door.session.post(
        f"{door.url}/v1/completions", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}
    ) as answer:
        assert answer.status == 415
    huge = head(f"Content-Length: {65 << 20}", "Content-Type: application/json", first="POST /v1/completions HTTP/1.1")
    assert status_of(await raw(door, huge)) == 413

    assert door.llama.bodies == door.ollama.bodies == []


async def test_invalid_requests_are_answered_400_at_the_entrance_too(door: Entrance) -> None:
    before = door.llama.paths() + door.ollama.paths()

    answers = await asyncio.gather(*(raw(door, sent) for sent in INVALID.values()))
    prefixed = await asyncio.gather(
        *(raw(door, head(first=f"GET /c/llama{path} HTTP/1.1")) for path in ("/../x", "/a%2fb", "/%2e%2e/x", "/a%5cb"))
    )

    assert dict(zip(INVALID, map(status_of, answers), strict=True)) == dict.fromkeys(INVALID, 400)
    assert [status_of(one) for one in prefixed] == [400] * 4
    assert door.llama.paths() + door.ollama.paths() == before


async def test_foreign_hosts_and_origins_are_refused_at_the_entrance(door: Entrance) -> None:
    evil = "Origin: http://evil.example"
    heads = [head(evil, "Content-Length: 0", host="Host: evil.example"), head(evil), head("Origin: null")]

    answers = [await raw(door, one) for one in heads]

    assert [status_of(one) for one in answers] == [421, 403, 403]


async def test_scripts_reach_every_path_of_a_consumer_below_its_name(door: Entrance) -> None:
    found = await door.get("/c/llama/some/path?x=1")
    root = await door.get("/c/llama")
    missing, refusal = await door.get("/c/nothing/x")
    never, _ = await door.post("/c/ollama/api/delete", {"model": "gemma3"})

    assert (found[0], found[1]["path"]) == (200, "/some/path?x=1")
    assert root[1]["path"] == "/"
    assert (missing, "Consumers: " in json.dumps(refusal)) == (404, True)
    assert never == 403


async def test_routes_that_change_a_server_are_refused(door: Entrance) -> None:
    for path in ("/api/pull", "/api/delete", "/api/create"):
        status, _ = await door.post(path, {"model": "gemma3"})
        assert status == 403


async def test_paths_of_the_configuration_go_to_their_consumer(tmp_path: Path) -> None:
    tables = '[gateway.routes]\n"/v1/llm" = { consumer = "llama", path = "/v1/chat/completions" }\n'
    tables += '"/v1/tts" = "ollama"\n'
    async with entrance(tmp_path, tables=tables) as made:
        await made.get("/v1/models")
        llm, answer = await made.post("/v1/llm", CHAT | {"model": "any"})
        tts, echoed = await made.post("/v1/tts?voice=a", {"text": "x"})

    assert (llm, answer["choices"][0]["message"]["content"]) == (200, "hello")
    assert (tts, echoed["path"]) == (200, "/v1/tts?voice=a")


async def test_websocket_goes_to_the_model_of_its_query(door: Entrance) -> None:
    async with door.session.ws_connect(f"{door.url}/ws?model=org/phi-4") as socket:
        await socket.send_str("hi")
        message = await socket.receive()

    assert (message.type, message.data) == (WSMsgType.TEXT, "echo hi")
    assert "GET /ws?model=org/phi-4" in door.llama.paths()


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_waiting_request_at_the_entrance_gets_its_answer(tmp_path: Path) -> None:
    async with entrance(tmp_path, keys="patience_sec = 0.3\ndrip_sec = 0.2") as made:
        await made.get("/v1/models")
        lease = await made.block()
        chat = asyncio.create_task(made.session.post(f"{made.url}/api/chat", json=CHAT | {"model": "gemma3"}))
        await made.wait_for_queue()
        await asyncio.sleep(0.6)
        await made.control.release(lease)
        async with await chat as answer:
            lines = (await answer.read()).splitlines()

    assert json.loads(lines[0])["done"] is False
    assert json.loads(lines[-1])["message"]["content"] == "hello"


async def test_client_that_leaves_while_its_request_waits_leaves_the_queue(door: Entrance) -> None:
    lease = await door.block()
    waiting = asyncio.create_task(door.post("/v1/completions", {"model": "qwen3"}))
    await door.wait_for_queue()
    waiting.cancel()

    async def is_empty() -> bool:
        return not (await door.control.status())["queue"]

    await wait_until("the queue is empty", is_empty)
    await door.control.release(lease)
