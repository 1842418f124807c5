"""The programs that the demonstration sends to the gateway, on hosts with and without them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import pytest

from gpumand.demo.chat_clients import OLLAMA, OPENAI, client_of

URL = "http://127.0.0.1:1"


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find, which = importlib.util.find_spec, shutil.which
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else find(name))
    monkeypatch.setattr(shutil, "which", lambda name: None if name in names else which(name))


def test_package_of_the_api_is_used_and_prints_only_the_answer() -> None:
    client = client_of(OPENAI)
    assert (client.name, client.is_package) == ("the openai package", True)
    assert client.command(URL, "qwen3")[-2:] == [URL, "qwen3"]
    assert client.has_answer("qwen3 says hello", "qwen3")
    assert not client.has_answer('{"content": "qwen3 says hello"}', "qwen3")


@pytest.mark.parametrize(("api", "path"), [(OPENAI, "/v1/chat/completions"), (OLLAMA, "/api/chat")])
def test_curl_sends_the_request_without_the_package(api: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openai", "ollama")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    client = client_of(api)
    command = client.command(URL, "qwen3")
    assert (client.name, command[0], command[-1]) == (f"curl at {path}", "curl", URL + path)
    assert json.loads(command[-2])["model"] == "qwen3"
    assert client.has_answer('{"message": {"content": "qwen3 says hello"}}', "qwen3")
    assert not client.has_answer('{"error": "no"}', "qwen3")


def test_python_sends_the_request_without_curl(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openai", "curl")
    client = client_of(OPENAI)
    assert client.name == "Python's urllib at /v1/chat/completions"
    assert client.command(URL, "qwen3")[0] == sys.executable
