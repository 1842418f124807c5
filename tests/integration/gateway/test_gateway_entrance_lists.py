"""The lists of models at the address for all models: merged, and answered from memory."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.live import wait_until


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
        hello = {"role": "user", "content": "hi"}
        used = await made.post("/api/chat", {"model": "assistant", "messages": [hello]})

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


async def test_entrance_without_gpumand_answers_lists(tmp_path: Path) -> None:
    async with entrance(tmp_path) as made:
        await made.host.end()
        status, models = await made.get("/v1/models")

    assert (status, models) == (200, {"object": "list", "data": []})
