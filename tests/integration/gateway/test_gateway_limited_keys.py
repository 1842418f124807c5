"""A client with an API key for some consumers sees and changes nothing of the others, on whichever way it tries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpumand.config.gateway_keys import hash_of
from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.live import DEADLINE_SEC, wait_until

FULL, LIMITED, SECOND = "gpumand-full", "gpumand-limited", "gpumand-second"
MODELS = """
[gateway.models]
"hidden-alias" = "llama"
"hidden-*" = "llama"
"own-alias" = { consumer = "ollama", as = "qwen3:8b" }
"""
NEVER_SHOWN = ("llama", "blocker", "phi-4", "hidden-alias", "hidden-*", "zacharias", "nightly render", "/secret/path")
"""Other consumers, their models, the other client, its purposes and the paths of its requests."""

READS = (
    "/gateway/v1/state",
    "/gateway/v1/requests",
    "/gateway/v1/listeners",
    "/gateway/v1/session",
    "/gateway/v1/fleet",
    "/gateway/v1/history",
    "/gateway/v1/history?limit=1000",
    "/gateway/v1/plan?consumer=ollama",
    "/metrics",
    "/v1/models",
    "/models",
    "/api/tags",
    "/api/ps",
    "/api/version",
    "/api/gpumand/models",
    "/v1/models/nothing",
    "/c/nothing/x",
)


def shown(text: str) -> list[str]:
    """The words of others that a text shows."""
    return [word for word in NEVER_SHOWN if word in text.replace("ollama", "")]


@dataclass
class Guarded:
    """An entrance with keys: zacharias may use everything, lena and leon only ollama; the device is leased."""

    made: Entrance
    lease: str = ""

    async def text(self, path: str, key: str = LIMITED) -> tuple[int, str]:
        async with self.made.session.get(self.made.url + path, headers=bearer(key)) as answer:
            return answer.status, await answer.text()

    async def json(self, path: str, key: str = LIMITED) -> Any:
        return json.loads((await self.text(path, key))[1])

    async def post(self, path: str, body: Any, key: str = LIMITED) -> tuple[int, Any]:
        return await self.made.post(path, body, headers=bearer(key))

    async def number_of(self, client: str) -> int:
        """The number of a waiting request."""
        found: list[int] = []

        async def waits() -> bool:
            requests = (await self.json("/gateway/v1/requests", FULL))["requests"]
            found[:] = [one["number"] for one in requests if one["client"] == client and one["waits_for"]]
            return bool(found)

        await wait_until("the request waits", waits)
        return found[0]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextlib.asynccontextmanager
async def guarding(folder: Path, keys: str = "") -> AsyncIterator[Guarded]:
    file = folder / "keys.toml"
    tables = [f'[keys.zacharias]\nsha256 = "{hash_of(FULL)}"\nevict = true\n']
    for name, key in (("lena", LIMITED), ("leon", SECOND)):
        tables.append(f'[keys.{name}]\nsha256 = "{hash_of(key)}"\nconsumers = ["ollama"]\n')
    file.write_text("".join(tables), encoding="utf-8")
    async with entrance(folder, keys=f'keys_file = "{file}"\n{keys}', tables=MODELS) as made:
        await made.get("/v1/models", headers=bearer(FULL))
        # Evictions and loads of both consumers are in the history.
        for model, path in (("qwen3", "/v1/completions"), ("qwen3:8b", "/v1/completions")):
            status, _ = await made.post(path, {"model": model}, headers=bearer(FULL))
            assert status == 200
        options = {"timeout_usec": ("t", 20_000_000), "reason": ("s", "nightly render of /secret/path")}
        lease, _ = await made.control.acquire("blocker", **options)
        yield Guarded(made, lease)


@contextlib.asynccontextmanager
async def waiting(one: Guarded, *requests: tuple[str, str]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Requests for a model, each with a key, which wait."""
    tasks = [
        asyncio.create_task(one.post("/v1/completions", {"model": model, "prompt": "/secret/path"}, key))
        for model, key in requests
    ]
    await one.made.wait_for_queue(len({model for model, _ in requests}))
    try:
        yield tasks
    finally:
        await one.made.control.release(one.lease)
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_nothing_of_other_consumers_is_in_any_answer(tmp_path: Path) -> None:
    async with guarding(tmp_path) as one, waiting(one, ("qwen3", FULL), ("qwen3:8b", LIMITED), ("qwen3:8b", FULL)):
        await one.number_of("zacharias")
        await one.number_of("lena")
        limited = {path: await one.text(path) for path in READS}
        full = "".join([(await one.text(path, FULL))[1] for path in READS])
        state = await one.json("/gateway/v1/state")
        plan = (await one.json("/gateway/v1/plan?consumer=ollama"))["plan"]
        history = (await one.json("/gateway/v1/history"))["entries"]
        models = await one.json("/v1/models")
        _, metrics = await one.text("/metrics")

    assert {path: words for path, (_, text) in limited.items() if (words := shown(text))} == {}
    # A client that may see everything gets the words, so that their absence means something.
    assert shown(full) == list(NEVER_SHOWN)
    assert {status for status, _ in limited.values()} == {200, 404}
    assert [status["name"] for status in state["status"]["consumers"]] == ["ollama"]
    assert [(each["consumer"], each["waiting_for"]) for each in state["status"]["queue"]] == [
        ("ollama", "memory that others use")
    ]
    assert {(each["client"], each["consumer"]) for each in state["requests"]} == {
        ("lena", "ollama"),
        ("another client", "ollama"),
    }
    assert state["request_count"] == len(state["requests"]) == 2
    (device,) = state["status"]["devices"]
    assert device["foreign_mib"] >= 20000
    assert device["foreign"] == []
    assert (plan["consumer"], plan["verdict"]) == ("ollama", "wait")
    assert {each["consumer"] for each in history} == {"ollama"}
    assert [each["id"] for each in models["data"]] == ["own-alias", "gemma3:latest"]
    assert 'consumer="ollama"' in metrics


async def test_page_of_a_limited_key_gets_its_own_events(tmp_path: Path) -> None:
    async def event(key: str) -> str:
        async with one.made.session.get(f"{one.made.url}/gateway/v1/events", headers=bearer(key)) as answer:
            while not (line := await answer.content.readline()).startswith(b"data: "):
                continue
            return line.decode()

    async with guarding(tmp_path) as one, waiting(one, ("qwen3", FULL), ("qwen3:8b", LIMITED)):
        full, limited, second, again = await asyncio.gather(event(FULL), event(LIMITED), event(SECOND), event(LIMITED))

    assert shown(limited + second + again) == []
    assert "blocker" in full
    assert '"lena"' in limited
    assert '"lena"' not in second


async def test_limited_key_changes_nothing_of_others(tmp_path: Path) -> None:
    async with guarding(tmp_path) as one, waiting(one, ("qwen3", FULL), ("qwen3:8b", SECOND)) as tasks:
        theirs, neighbour = await one.number_of("zacharias"), await one.number_of("leon")
        refused = [
            await one.post(f"/gateway/v1/requests/{theirs}/cancel", {}),
            await one.post(f"/gateway/v1/requests/{neighbour}/cancel", {}),
            await one.post(f"/gateway/v1/requests/{theirs + 1000}/cancel", {}),
            await one.post("/gateway/v1/consumers/llama/load", {}),
            await one.post("/gateway/v1/consumers/nothing/load", {}),
            await one.post("/gateway/v1/consumers/ollama/evict", {}),
        ]
        asked = [
            await one.text(path)
            for path in (
                "/gateway/v1/plan?consumer=llama",
                "/gateway/v1/plan?vram_mib=1000",
                "/gateway/v1/plan?all=true",
                "/gateway/v1/history?consumer=llama",
            )
        ]
        own, _ = await one.post(f"/gateway/v1/requests/{neighbour}/cancel", {}, SECOND)
        status, refusal = await tasks[1]

    assert [status for status, _ in refused] == [403] * 6
    # A number that does not exist is refused in the same words, so that numbers tell nothing.
    assert refused[0] == refused[1] == refused[2]
    assert [status for status, _ in asked] == [403] * 4
    assert own == 200
    assert (status, refusal["error"]["code"]) == (503, "cancelled")


async def test_models_of_other_consumers_do_not_exist_for_a_limited_key(tmp_path: Path) -> None:
    async with guarding(tmp_path) as one:
        await one.made.control.release(one.lease)
        answers = [
            await one.post("/v1/completions", {"model": model})
            for model in ("hidden-alias", "hidden-other", "qwen3", "llama/qwen3", "llama", "nothing")
        ]
        own, _ = await one.post("/v1/completions", {"model": "own-alias"})

    assert [status for status, _ in answers] == [404] * 6
    for (_, refusal), model in zip(
        answers, ("hidden-alias", "hidden-other", "qwen3", "llama/", "llama", "-"), strict=True
    ):
        known = refusal["error"]["message"].replace(model, "")
        assert [word for word in NEVER_SHOWN if word in known] == []
    assert own == 200


@pytest.mark.parametrize("is_stream", [True, False])
async def test_waiting_client_learns_nothing_of_the_consumers_in_the_way(tmp_path: Path, is_stream: bool) -> None:
    times = "wait_sec = 2\npatience_sec = 0.2\ndrip_sec = 0.2" if is_stream else "wait_sec = 2\npatience_sec = 60"
    body = {"model": "qwen3:8b", "messages": [], "stream": is_stream}
    async with guarding(tmp_path, times) as one:
        url = f"{one.made.url}/v1/chat/completions"
        answers = []
        for key in (FULL, LIMITED):
            async with one.made.session.post(url, json=body, headers=bearer(key)) as answer:
                answers.append(await answer.text())
        await one.made.control.release(one.lease)

    assert "blocker" in answers[0]
    assert shown(answers[1]) == []
    assert "ollama: waiting for memory that others use" in answers[1]


async def test_open_event_stream_ends_at_a_reload_and_its_successor_has_the_rights_of_the_changed_key(
    tmp_path: Path,
) -> None:
    async with guarding(tmp_path) as one:
        process, url = one.made.gateway.process, f"{one.made.url}/gateway/v1/events"
        assert process is not None
        async with one.made.session.get(url, headers=bearer(LIMITED)) as stream:
            before = await state_of(stream)
            change_key(tmp_path / "keys.toml", "lena", ["llama"])
            process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_SEC):
                rest = await stream.read()
        async with one.made.session.get(url, headers=bearer(LIMITED)) as stream:
            after = await state_of(stream)

    assert names_of(before) == ["ollama"]
    assert b"llama" not in rest.replace(b"ollama", b"")
    assert names_of(after) == ["llama"]


async def state_of(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next state on a stream that shows gpumand's status."""
    async with asyncio.timeout(DEADLINE_SEC):
        async for line in stream.content:
            if line.startswith(b"data: ") and (found := json.loads(line[6:]))["status"]:
                return dict(found)
    raise AssertionError("the stream has ended")


def names_of(state: dict[str, Any]) -> list[str]:
    return [one["name"] for one in state["status"]["consumers"]]


def change_key(file: Path, name: str, consumers: list[str]) -> None:
    """Let a key use other consumers."""
    head, key, rest = file.read_text(encoding="utf-8").partition(f"[keys.{name}]")
    mine, table, others = rest.partition("[keys.")
    mine = mine.replace('consumers = ["ollama"]', f"consumers = {json.dumps(consumers)}")
    file.write_text(head + key + mine + table + others, encoding="utf-8")


async def test_refusal_at_the_address_of_another_consumer_does_not_name_it(tmp_path: Path) -> None:
    async with guarding(tmp_path, '[gateway.routes]\n"/v1/tts" = "llama"\n') as one:
        status, text = await one.post("/v1/tts", {})

    assert status == 403
    assert shown(json.dumps(text)) == []
