"""Questions that ``gpumanctl init`` asks servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gpumand.cli.server_questions import ServerQuestions
from gpumand.config.presets import preset
from gpumand.consumers.routes import HttpRoutes
from gpumand.discovery.server_models import MAX_MODELS, ServerModels
from gpumand.testing.clock import FakeClock


@asynccontextmanager
async def server(documents: dict[str, Any]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers these documents, and 401 for every other path; yields its URL and the requests."""
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        verb, path, _ = (await reader.readline()).decode().split()
        requests.append(f"{verb} {path}")
        status = "200 OK" if path in documents else "401 Unauthorized"
        document = documents.get(path, "no")
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", requests


async def models_of(name: str, documents: dict[str, Any]) -> ServerModels:
    routes = HttpRoutes(FakeClock())
    try:
        async with server(documents) as (url, requests):
            found = await ServerQuestions(routes).ask_models({"it": (preset(name), url)})
            assert all(one.startswith("GET ") for one in requests)
            return found["it"]
    finally:
        await routes.close()


@pytest.mark.parametrize(
    ("name", "documents", "names", "loaded"),
    [
        (
            "ollama",
            {
                "/api/ps": {"models": [{"name": "b:7b"}]},
                "/api/tags": {"models": [{"name": "a:7b"}, {"name": "b:7b"}]},
            },
            ("b:7b", "a:7b"),
            ("b:7b",),
        ),
        ("ollama", {"/api/ps": {"models": []}, "/api/tags": {"models": [{"name": "a:7b"}]}}, ("a:7b",), ()),
        (
            "llama-cpp-router",
            {
                "/models": {
                    "data": [
                        {"id": "x", "status": {"value": "unloaded"}},
                        {"id": "y", "status": {"value": "loaded"}},
                    ]
                }
            },
            ("x", "y"),
            ("y",),
        ),
        (
            "lm-studio",
            {
                "/api/v1/models": {
                    "models": [{"key": "a", "loaded_instances": []}, {"key": "b", "loaded_instances": [{}]}]
                }
            },
            ("a", "b"),
            ("b",),
        ),
        (
            "koboldcpp",
            {"/api/admin/list_options": ["initial_model", "chat.kcpps", "unload_model"]},
            ("chat.kcpps",),
            None,
        ),
        ("tabbyapi", {"/v1/model/list": {"data": [{"id": "m"}]}}, ("m",), None),
        ("speaches", {"/api/ps": {"models": ["w"]}, "/v1/models": {"data": [{"id": "w"}]}}, ("w",), ("w",)),
    ],
)
async def test_models_are_read_from_the_servers_own_list(
    name: str, documents: dict[str, Any], names: tuple[str, ...], loaded: tuple[str, ...] | None
) -> None:
    found = await models_of(name, documents)
    assert (found.names, found.loaded) == (names, loaded)


@pytest.mark.parametrize(
    "document", [b"\xff{", [], {}, {"models": "x"}, {"models": [3, None, {"name": ["x"]}, {"name": "a\nb"}]}]
)
async def test_an_answer_without_usable_names_gives_no_model(document: Any) -> None:
    found = await models_of("ollama", {"/api/ps": document})
    assert (found.names, found.chosen) == ((), "")
    assert found.error


async def test_a_refusal_is_the_reason_and_the_number_of_models_is_limited() -> None:
    refused = await models_of("ollama", {})
    assert "/api/ps answered 401" in refused.error
    many = {"data": [{"id": f"m{number}"} for number in range(MAX_MODELS + 50)]}
    assert len((await models_of("xinference", {"/v1/models": many})).names) == MAX_MODELS
