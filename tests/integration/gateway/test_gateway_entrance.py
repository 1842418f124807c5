"""One address for all models: requests are routed by their model, and lists are answered from memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType

from gpumand.gateway.entrance_config import GATEWAY
from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.test_gateway_http import INVALID, head, status_of
from tests.integration.http.raw import exchange
from tests.integration.live import wait_until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Entrance]:
    """An entrance with default settings; the lists of the services are known."""
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        yield made


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


# -- lists -------------------------------------------------------------------------------------------------------------


async def test_lists_of_all_services_are_merged(door: Entrance) -> None:
    _, models = await door.get("/v1/models")
    _, tags = await door.get("/api/tags")
    _, running = await door.get("/api/ps")
    _, version = await door.get("/api/version")
    one, entry = await door.get("/v1/models/org/phi-4")
    encoded, same = await door.get("/v1/models/org%2Fphi-4")
    unknown, _ = await door.get("/v1/models/nothing")

    assert [entry["id"] for entry in models["data"]] == ["qwen3", "org/phi-4", "gemma3:latest", "qwen3:8b"]
    assert [entry["name"] for entry in tags["models"]] == ["gemma3:latest", "qwen3:8b"]
    assert tags["models"][0]["details"] == {"family": "x"}
    assert [entry["name"] for entry in running["models"]] == ["gemma3:latest"]
    assert version == {"version": "0.6.1"}
    assert (one, encoded, unknown) == (200, 200, 404)
    assert entry["id"] == same["id"] == "org/phi-4"


async def test_names_of_the_configuration_are_in_the_list_of_a_stopped_ollama(tmp_path: Path) -> None:
    tables = '[gateway.models]\nassistant = { consumer = "ollama", as = "qwen3:8b" }\ngpt = "llama"\n"q*" = "ollama"\n'
    async with entrance(tmp_path, tables=tables) as made:
        await made.get("/api/tags")
        await made.ollama.stop()
        _, tags = await made.get("/api/tags")
        leases = (await made.control.status())["leases"]
        await made.ollama.start()
        used = await made.post("/api/chat", CHAT | {"model": "assistant"})

    assert [(one["name"], one["model"]) for one in tags["models"]] == [
        ("assistant:latest", "assistant:latest"),
        ("gemma3:latest", "gemma3:latest"),
        ("qwen3:8b", "qwen3:8b"),
    ]
    assert {**tags["models"][2], "name": "assistant:latest", "model": "assistant:latest"} == tags["models"][0]
    assert not leases
    assert (used[0], made.ollama.used) == (200, ["qwen3:8b"])


async def test_root_says_that_ollama_is_running(door: Entrance) -> None:
    async with door.session.get(door.url) as answer:
        text = await answer.text()
    async with door.session.head(door.url) as head_answer:
        assert head_answer.status == 200

    assert (answer.status, text) == (200, "Ollama is running")


async def quickest(made: Entrance, path: str) -> tuple[float, Any]:
    """The shortest of several answers: the machine may be busy."""
    best, answer = 60.0, None
    for _ in range(5):
        began = time.monotonic()
        status, answer = await made.get(path)
        best = min(best, time.monotonic() - began)
        assert status == 200
    return best, answer


async def test_lists_of_stopped_services_are_answered_at_once_and_survive_a_restart(door: Entrance) -> None:
    async def saved() -> bool:
        return (door.host.folder / "gateway-state" / "lists.json").exists()

    await wait_until("the lists are saved", saved)
    await door.ollama.stop()
    await door.llama.stop()

    for path in ("/api/tags", "/v1/models", "/api/version"):
        seconds, _ = await quickest(door, path)
        assert seconds < 0.5, path
    await door.gateway.end()
    await door.gateway.start()
    seconds, tags = await quickest(door, "/api/tags")
    _, running = await door.get("/api/ps")
    _, models = await door.get("/v1/models")

    assert seconds < 0.5
    assert [one["name"] for one in tags["models"]] == ["gemma3:latest", "qwen3:8b"]
    assert running == {"models": []}
    assert {one["status"]["value"] for one in models["data"]} == {"unloaded"}
    assert not (await door.control.status())["leases"]


async def test_status_of_a_model_follows_its_consumer(door: Entrance) -> None:
    async def status(model: str) -> str:
        _, found = await door.get(f"/v1/models/{model}")
        return str(found["status"]["value"])

    await door.post("/v1/completions", {"model": "qwen3"})

    async def is_loaded() -> bool:
        return await status("qwen3") == "loaded"

    await wait_until("the model is loaded", is_loaded)
    assert await status("qwen3:8b") == "unloaded"


async def test_slow_and_hostile_lists_delay_no_client(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        await made.get("/v1/models")
        made.llama.models = ["<script>", "x" * 1000, "a\nb"]
        await asyncio.sleep(1.1)
        await made.get("/v1/models")
        _, models = await made.get("/v1/models")

    assert [one["id"] for one in models["data"]] == ["<script>", "gemma3:latest", "qwen3:8b"]


async def test_services_lists_survive_a_restart_for_every_client_of_its_own_address(tmp_path: Path) -> None:
    def a_client(name: str) -> dict[str, Any]:
        return {
            "headers": {"Authorization": f"Bearer {name}", "Accept-Encoding": "gzip" if name == "b" else "identity"}
        }

    async with entrance(tmp_path, tables="[gateway.models]\ndiscover = []\n") as made:
        tags = await made.get("/c/ollama/api/tags", **a_client("a"))
        models = await made.get("/c/llama/v1/models", **a_client("a"))
        file = made.host.folder / "gateway-state" / "lists.json"

        async def saved() -> bool:
            return file.exists() and all(one in file.read_text() for one in ("gemma3:latest", "phi-4", "0.6.1"))

        await wait_until("the lists are saved", saved)
        await made.ollama.stop()
        await made.llama.stop()
        await made.gateway.end()
        await made.gateway.start()

        assert await made.get("/c/ollama/api/tags", **a_client("b")) == tags
        assert await made.get("/c/llama/v1/models", **a_client("b")) == models
        assert await made.get("/c/ollama/api/version") == (200, {"version": "0.6.1"})
        async with made.session.head(f"{made.url}/c/ollama/") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        assert (await made.get("/c/ollama/api/ps"))[0] == 503
        assert (await made.get("/c/llama/"))[0] == 503
        assert (await made.get("/api/tags"))[1] == {"models": []}, "discover has no consumer"
        assert not (await made.control.status())["leases"]


async def test_missing_state_directory_is_no_obstacle(tmp_path: Path) -> None:
    async with entrance(tmp_path, has_state=False) as made:
        status, models = await made.get("/v1/models")

        async def is_logged() -> bool:
            return "cannot be saved" in made.gateway.log

        await wait_until("the problem is logged", is_logged)

    assert (status, len(models["data"])) == (200, 4)


async def test_listed_consumers_are_only_those_of_discover(tmp_path: Path) -> None:
    async with entrance(tmp_path, tables='[gateway.models]\ndiscover = ["ollama"]\n') as made:
        _, models = await made.get("/v1/models")
        status, _ = await made.post("/v1/completions", {"model": "qwen3"})

    assert [one["id"] for one in models["data"]] == ["gemma3:latest", "qwen3:8b"]
    assert status == 404


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


async def test_entrance_without_gpumand_answers_lists(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        await made.host.end()
        status, models = await made.get("/v1/models")

    assert (status, models) == (200, {"object": "list", "data": []})
