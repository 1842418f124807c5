"""The APIs that clients speak: how each one writes an error, and what is sent to a waiting client while a model loads.

A client of an API has a limit on silence. What was tried with the official client libraries: a comment in server-sent
events (OpenAI), a ping event (Anthropic), a chunk without content (Ollama; a blank line crashes its Python client), and
blanks before a JSON document. Headers alone do not help.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from gpumand.gateway.refusals import Refusal

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"


ANTHROPIC_HEADER = "anthropic-version"
"""Header of every request of a client of the API of Anthropic, which shares some paths with that of OpenAI."""


class Api(Enum):
    """The API of a request."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"
    HTML = "html"
    PLAIN = "plain"


_OPENAI_STREAMS = (
    "/chat/completions",
    "/completions",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/api/v1/chat/completions",
    "/api/v1/completions",
    "/api/v0/chat/completions",
    "/api/v0/completions",
    "/v1/infill",
    "/completion",
    "/infill",
)
_OPENAI_DOCUMENTS = (
    "/embeddings",
    "/v1/embeddings",
    "/rerank",
    "/v1/rerank",
    "/reranking",
    "/v1/reranking",
    "/v1/moderations",
    "/tokenize",
)
_IMAGES = "/v1/images/generations"
_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")
_OLLAMA_STREAMS = ("/api/chat", "/api/generate")
_OLLAMA_DOCUMENTS = ("/api/embed", "/api/embeddings")
_OLLAMA_READS = ("/api/ps", "/api/show", "/api/tags", "/api/version")
OLLAMA_CHANGES = ("/api/copy", "/api/create", "/api/delete", "/api/pull", "/api/push")
"""Paths of Ollama that change which models it has."""

MODEL_PATHS = frozenset(
    (*_OPENAI_STREAMS, *_OPENAI_DOCUMENTS, _IMAGES, *_ANTHROPIC, *_OLLAMA_STREAMS, *_OLLAMA_DOCUMENTS)
)
"""Paths whose JSON body is read before the request waits, because it decides about the form of the answer."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of the answers to one request.

    Attributes:
        api: the API that the client speaks.
        content_type: type of an answer that begins before the consumer has answered; "" = none may begin early.
        path: decoded path of the request.
        model: the model that the request names.
    """

    api: Api = Api.PLAIN
    content_type: str = ""
    path: str = ""
    model: str = ""

    def drip(self, text: str) -> bytes:
        """Bytes that show the client that its request is being handled; ``text`` is shown where the API allows it."""
        if self.content_type == EVENT_STREAM:
            if self.api is Api.ANTHROPIC:
                return b'event: ping\ndata: {"type": "ping"}\n\n'
            return f": {_line(text)}\n\n".encode()
        if self.content_type == JSON_LINES:
            return _json(self._empty_chunk()) + b"\n"
        return b" "

    def error_frame(self, refusal: Refusal) -> bytes:
        """An error in an answer that has already begun with status 200."""
        return self.frame(error_body(self.api, refusal))

    def frame(self, body: bytes) -> bytes:
        """An error document of the consumer or the gateway, in the form of an answer that has already begun."""
        document = _one_line_json(self.api, body)
        if self.content_type == EVENT_STREAM:
            event = b"event: error\n" if self.api is Api.ANTHROPIC else b""
            return event + b"data: " + document + b"\n\n"
        return document + b"\n"

    def _empty_chunk(self) -> dict[str, Any]:
        chunk: dict[str, Any] = {"model": self.model, "created_at": _now()}
        content = {"message": {"role": "assistant", "content": ""}} if self.path == "/api/chat" else {"response": ""}
        return chunk | content | {"done": False}


def dialect_of(path: str, body: object, *, accepts_html: bool = False, accepts_json: bool = False) -> Dialect:
    """The dialect of a request.

    Args:
        path: decoded path.
        body: its parsed JSON body; None if it is not JSON or was not read.
        accepts_html, accepts_json: what the client asks for, which decides about errors on other paths.
    """
    api = api_of(path)
    document = body if isinstance(body, dict) else None
    if api is Api.PLAIN:
        return Dialect(Api.HTML if accepts_html else Api.OPENAI if accepts_json else Api.PLAIN, path=path)
    if document is None or path not in MODEL_PATHS:
        # Answers of other paths may be no JSON: speech, images, text.
        return Dialect(api, path=path)
    model = document.get("model")
    return Dialect(api, _content_type(path, document), path, model[:256] if isinstance(model, str) else "")


def api_of(path: str) -> Api:
    """The API that a path belongs to."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Api.ANTHROPIC
    if path in _OLLAMA_STREAMS or path in _OLLAMA_DOCUMENTS:
        return Api.OLLAMA
    if path in _OLLAMA_READS or path in OLLAMA_CHANGES:
        return Api.OLLAMA
    return Api.OPENAI if path in MODEL_PATHS or path.startswith("/v1/") else Api.PLAIN


def _content_type(path: str, body: dict[str, Any]) -> str:
    if path in _OLLAMA_STREAMS:
        # Ollama streams unless it is asked not to.
        return JSON if body.get("stream") is False else JSON_LINES
    streams = path in _OPENAI_STREAMS or path in (_IMAGES, "/v1/messages")
    return EVENT_STREAM if streams and body.get("stream") is True else JSON


_ZERO_DURATION = re.compile(r"[+-]?(?:0|(?:(?:0++(?:\.0*+)?|\.0++)(?:ns|us|µs|μs|ms|s|m|h))+)")
"""A duration of Ollama, which is written as in Go, with the value 0. It is never matched in a second way: a client may
send a million zeros."""


def is_unload(path: str, body: object) -> bool:
    """Whether a request to Ollama only unloads the model: ``keep_alive`` 0 without a prompt."""
    if path not in _OLLAMA_STREAMS or not isinstance(body, dict) or body.get("prompt") or body.get("messages"):
        return False
    keep_alive = body.get("keep_alive")
    if isinstance(keep_alive, str):
        return _ZERO_DURATION.fullmatch(keep_alive) is not None
    # The library of Ollama for Python sends 0 as 0.0.
    return isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool) and not keep_alive


def unload_answer(path: str, body: object) -> bytes:
    """Ollama's answer to a request that unloads the model; gpumand decides when the model leaves memory."""
    model = body.get("model") if isinstance(body, dict) else ""
    answer: dict[str, Any] = {"model": model if isinstance(model, str) else "", "created_at": _now()}
    answer |= {"message": {"role": "assistant", "content": ""}} if path == "/api/chat" else {"response": ""}
    return _json(answer | {"done": True, "done_reason": "unload"})


def status_for(api: Api, refusal: Refusal) -> int:
    """The HTTP status of a refusal."""
    if api is Api.ANTHROPIC and refusal.code == "gpu_busy":
        return 529
    is_busy_elsewhere = refusal.status == 429 and api not in (Api.OPENAI, Api.ANTHROPIC)
    return 503 if is_busy_elsewhere else refusal.status


def error_body(api: Api, refusal: Refusal) -> bytes:
    """The document of a refusal in the form of an API; one line of text in other cases."""
    if api is Api.OPENAI:
        return _json(
            {"error": {"message": refusal.message, "type": _type(refusal), "param": None, "code": refusal.code}}
        )
    if api is Api.ANTHROPIC:
        kind = (
            "overloaded_error" if refusal.code == "gpu_busy" else _ANTHROPIC_TYPES.get(refusal.status, _type(refusal))
        )
        return _json({"type": "error", "error": {"type": kind, "message": refusal.message}})
    if api is Api.OLLAMA:
        return _json({"error": refusal.message})
    return f"{refusal.message}\n".encode()


def error_type(api: Api) -> str:
    """The content type of ``error_body``."""
    return "text/plain" if api in (Api.PLAIN, Api.HTML) else JSON


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
}
"""Types of errors in the API of Anthropic that the one of OpenAI does not have."""


def _type(refusal: Refusal) -> str:
    if refusal.status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if refusal.status < 500 else "api_error"


def _one_line_json(api: Api, body: bytes) -> bytes:
    """A JSON object on one line, whatever the consumer has answered."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and "error" in document:
        return _json(document)
    text = _line(body.decode("utf-8", "replace"))[:1000] or "the service has answered with an error"
    return error_body(api if api in (Api.ANTHROPIC, Api.OLLAMA) else Api.OPENAI, Refusal(502, "upstream_error", text))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _line(text: str) -> str:
    return " ".join(text.split())


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
