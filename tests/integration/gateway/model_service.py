"""A fake service that has models: it lists them, and answers with the model and the body that it was given."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.integration.gateway.fake_service import FakeService


class ModelService(FakeService):
    """A server with the APIs of OpenAI, Anthropic and Ollama.

    Attributes:
        models: its models.
        bodies: the bodies of requests that use a model; large ones are only counted.
        uploads: size and SHA-256 of the bodies of other requests.
    """

    def __init__(self, *models: str) -> None:
        super().__init__()
        self.models = list(models)
        self.bodies: list[dict[str, Any]] = []
        self.uploads: list[tuple[int, str]] = []

    @property
    def used(self) -> list[str]:
        """The models of all requests that use one."""
        return [str(one.get("model")) for one in self.bodies]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and (found := self._list(request.path)) is not None:
            self.seen.append((request.method, request.raw_path, dict(request.headers)))
            return web.json_response(found)
        if request.content_type.startswith("multipart/"):
            return await self._form(request)
        if request.method == "POST" and request.path in ANSWERS:
            self.seen.append((request.method, request.raw_path, dict(request.headers)))
            body = json.loads(await request.read())
            self.bodies.append(body)
            return await ANSWERS[request.path](request, body)
        return await super()._handle(request)

    def _list(self, path: str) -> Any:
        names = [{"name": one, "model": one, "size": 1, "details": {"family": "x"}} for one in self.models]
        return {
            "/v1/models": {"object": "list", "data": [{"id": one, "object": "model"} for one in self.models]},
            "/api/tags": {"models": names},
            "/api/ps": {"models": names[:1]},
            "/api/version": {"version": "0.6.1"},
        }.get(path)

    async def _form(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        size, digest, first = 0, hashlib.sha256(), b""
        async for chunk in request.content.iter_any():
            size += len(chunk)
            digest.update(chunk)
            first = (first + chunk)[:4096]
        self.uploads.append((size, digest.hexdigest()))
        return web.json_response({"text": "words", "bytes": size, "begin": first.decode("latin-1")})


async def _chat(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if body.get("stream"):
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}]}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        return await _events(request, [json.dumps(chunk | first), json.dumps(chunk | last), "[DONE]"])
    message = {"role": "assistant", "content": "hello"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return web.json_response(
        {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
    )


async def _messages(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "1", "type": "message", "role": "assistant", "model": body["model"], "usage": usage}
    message |= {"stop_reason": None, "stop_sequence": None}
    text = {"type": "text", "text": "hello"}
    if not body.get("stream"):
        return web.json_response(message | {"content": [text], "stop_reason": "end_turn"})
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return await _events(request, [json.dumps(one) for one in events], [str(one["type"]) for one in events])


async def _ollama_chat(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    chunk = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "stop"}
    key = {"message": {"role": "assistant", "content": "hello"}} if "messages" in body else {"response": "hello"}
    return web.json_response(chunk | key)


async def _embeddings(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})


async def _events(request: web.Request, data: list[str], names: list[str] | None = None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for index, one in enumerate(data):
        event = f"event: {names[index]}\n" if names else ""
        await response.write(f"{event}data: {one}\n\n".encode())
    return response


async def _echo(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"path": request.path, "model": body.get("model")})


ANSWERS = {
    "/v1/chat/completions": _chat,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": _echo,
    "/v1/embeddings": _embeddings,
    "/api/chat": _ollama_chat,
    "/api/generate": _ollama_chat,
    "/api/embed": _echo,
    "/api/show": _echo,
    "/v1/completions": _echo,
    "/v1/responses": _echo,
    "/v1/rerank": _echo,
    "/v1/audio/speech": _echo,
    "/v1/images/generations": _echo,
}


@contextlib.asynccontextmanager
async def model_service(*models: str) -> AsyncIterator[ModelService]:
    """A running server with models."""
    service = ModelService(*models)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
