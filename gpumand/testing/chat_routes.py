"""Chat routes of a simulated consumer, in the forms of the OpenAI API and of Ollama, streamed and whole.

====================================  ================================================================================
``GET /v1/models``, ``/api/tags``     the model, which has the name of the consumer
``POST /v1/chat/completions``         words, after loading the model if necessary; ``stream`` as in the OpenAI API
``POST /api/chat``                    the same in the form of Ollama, streamed unless ``stream`` is false
====================================  ================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gpumand.testing.consumer_model import Model

WORD_SEC = 0.05


class ChatRoutes:
    """The routes of one model.

    Args:
        model: the simulated model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._name = model.settings.name

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_post("/api/chat", self._chat)

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": self._name, "object": "model", "owned_by": ""}]})

    async def _tags(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"models": [{"name": self._name, "model": self._name}]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        if (await request.json()).get("stream"):
            return await self._stream(request, "text/event-stream", self._event, b"data: [DONE]\n\n")
        message = {"role": "assistant", "content": "".join([word async for word in self._words()])}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return web.json_response(self._completion("chat.completion", choice))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        last = json.dumps(self._part("") | {"done": True, "done_reason": "stop"}).encode() + b"\n"
        if (await request.json()).get("stream", True):
            return await self._stream(request, "application/x-ndjson", self._line, last)
        text = "".join([word async for word in self._words()])
        return web.json_response(self._part(text) | {"done": True, "done_reason": "stop"})

    async def _stream(
        self, request: web.Request, content_type: str, form: Callable[[str], bytes], last: bytes
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        async for word in self._words():
            await response.write(form(word))
        await response.write(last)
        return response

    async def _words(self) -> Any:
        """The words of the answer; each is work of the model."""
        for word in (self._name, " ", "says", " ", "hello"):
            await self._model.work(WORD_SEC)
            yield word

    def _event(self, word: str) -> bytes:
        choice = {"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": word}}
        return f"data: {json.dumps(self._completion('chat.completion.chunk', choice))}\n\n".encode()

    def _line(self, word: str) -> bytes:
        return json.dumps(self._part(word)).encode() + b"\n"

    def _completion(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {"id": "1", "object": kind, "created": 1, "model": self._name, "choices": [choice]}

    def _part(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"model": self._name, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}
