"""Errors and signs of life have the form that the clients of an API understand."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gpumand.gateway.dialects import Api, dialect_of, error_body, is_unload, status_for
from gpumand.gateway.refusals import Refusal

BUSY = Refusal(429, "gpu_busy", "All is leased.", 20)


@pytest.mark.parametrize(
    ("path", "body", "api", "content_type"),
    [
        ("/v1/chat/completions", {"stream": True}, Api.OPENAI, "text/event-stream"),
        ("/v1/chat/completions", {}, Api.OPENAI, "application/json"),
        ("/v1/chat/completions", {"stream": 1}, Api.OPENAI, "application/json"),
        ("/v1/chat/completions", None, Api.OPENAI, ""),
        ("/v1/chat/completions", [1], Api.OPENAI, ""),
        ("/v1/embeddings", {"stream": True}, Api.OPENAI, "application/json"),
        ("/v1/images/generations", {"stream": True}, Api.OPENAI, "text/event-stream"),
        ("/v1/images/generations", {}, Api.OPENAI, "application/json"),
        ("/v1/messages/batches", {"requests": []}, Api.ANTHROPIC, ""),
        ("/api/pull", {"model": "a"}, Api.OLLAMA, ""),
        ("/api/show", {"model": "a"}, Api.OLLAMA, ""),
        ("/v1/audio/speech", None, Api.OPENAI, ""),
        ("/v1/messages", {"stream": True}, Api.ANTHROPIC, "text/event-stream"),
        ("/v1/messages/count_tokens", {}, Api.ANTHROPIC, "application/json"),
        ("/api/chat", {}, Api.OLLAMA, "application/x-ndjson"),
        ("/api/chat", {"stream": False}, Api.OLLAMA, "application/json"),
        ("/api/embed", {}, Api.OLLAMA, "application/json"),
        ("/prompt", {"stream": True}, Api.PLAIN, ""),
    ],
)
def test_api_and_form_of_the_answer(path: str, body: Any, api: Api, content_type: str) -> None:
    dialect = dialect_of(path, body)

    assert (dialect.api, dialect.content_type) == (api, content_type)


def test_comment_is_one_line_whatever_it_says() -> None:
    dialect = dialect_of("/v1/chat/completions", {"stream": True})

    assert dialect.drip("a\n\ndata: evil\r\n") == b": a data: evil\n\n"


def test_error_of_the_service_becomes_a_frame_on_one_line() -> None:
    dialect = dialect_of("/v1/chat/completions", {"stream": True})

    assert dialect.frame(b'{"error": {\n"message": "x"}}') == b'data: {"error":{"message":"x"}}\n\n'
    assert b"Internal Server Error" in dialect.frame(b"<h1>Internal\nServer Error</h1>")
    assert dialect.frame(b"").startswith(b"data: {")
    assert json.loads(dialect_of("/api/chat", {}).frame(b"oops")) == {"error": "oops"}
    assert dialect_of("/v1/messages", {"stream": True}).frame(b"x").startswith(b"event: error\ndata: {")


def test_refusals_have_the_shape_and_status_of_the_api() -> None:
    openai = json.loads(error_body(Api.OPENAI, BUSY))["error"]

    assert openai == {"message": "All is leased.", "type": "rate_limit_error", "param": None, "code": "gpu_busy"}
    assert json.loads(error_body(Api.ANTHROPIC, BUSY))["error"]["type"] == "overloaded_error"
    assert json.loads(error_body(Api.OLLAMA, BUSY)) == {"error": "All is leased."}
    assert error_body(Api.PLAIN, BUSY) == b"All is leased.\n"
    assert [status_for(api, BUSY) for api in (Api.OPENAI, Api.ANTHROPIC, Api.OLLAMA, Api.PLAIN)] == [429, 529, 503, 503]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"keep_alive": 0}, True),
        ({"keep_alive": "0s", "prompt": ""}, True),
        ({"keep_alive": 0, "messages": []}, True),
        ({"keep_alive": 0.0}, True),
        ({"keep_alive": "0m0s"}, True),
        ({"keep_alive": "-0.0ms"}, True),
        ({"keep_alive": ""}, False),
        ({"keep_alive": "0"}, True),
        ({"keep_alive": "+.0h00.s"}, True),
        ({"keep_alive": "00"}, False),
        ({"keep_alive": "."}, False),
        ({"keep_alive": "10s"}, False),
        ({"keep_alive": "0h1s"}, False),
        ({"keep_alive": None}, False),
        ({"keep_alive": 0, "prompt": "hi"}, False),
        ({"keep_alive": -1}, False),
        ({"keep_alive": False}, False),
        ({"keep_alive": [0]}, False),
        ({}, False),
        (None, False),
    ],
)
def test_unload_request_is_recognised(body: Any, expected: bool) -> None:
    assert is_unload("/api/generate", body) is expected
    assert not is_unload("/v1/completions", body)


@pytest.mark.parametrize("text", ["0" * 2_000 + "x", ".0" * 2_000, "0." * 2_000, "0s" * 2_000 + "x"])
def test_long_keep_alive_is_compared_in_linear_time(text: str) -> None:
    began = time.process_time()
    assert not is_unload("/api/generate", {"keep_alive": text})
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
    ],
)
def test_anthropic_errors_have_the_type_of_their_status(status: int, kind: str) -> None:
    assert json.loads(error_body(Api.ANTHROPIC, Refusal(status, "code", "Text.")))["error"]["type"] == kind
