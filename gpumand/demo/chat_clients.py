"""Programs that were never changed and talk to the gateway: the packages of OpenAI and Ollama, curl, or Python itself.

A checkout has the packages. An installed gpumand does not depend on them, so a plain HTTP client sends their requests.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass

OPENAI, OLLAMA = "openai", "ollama"

PROGRAMS = {
    OPENAI: """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
messages = [{"role": "user", "content": "hi"}]
for part in client.chat.completions.create(model=sys.argv[2], messages=messages, stream=True):
    print(part.choices[0].delta.content, end="", flush=True)
""",
    OLLAMA: """
import sys, ollama
client = ollama.Client(host=sys.argv[1])
messages = [{"role": "user", "content": "hi"}]
for part in client.chat(model=sys.argv[2], messages=messages, stream=True):
    print(part["message"]["content"], end="", flush=True)
""",
}

PATHS = {OPENAI: "/v1/chat/completions", OLLAMA: "/api/chat"}

PLAIN = """
import sys, urllib.request
body = sys.argv[2].encode() if len(sys.argv) > 2 else None
request = urllib.request.Request(sys.argv[1], body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request).read().decode())
"""


@dataclass(frozen=True, slots=True)
class ChatClient:
    """A program that asks a model for an answer in the form of one API.

    Attributes:
        api: "openai" or "ollama".
        name: the program, for titles.
        is_package: whether it is the API's own Python package, which prints the words of a stream only.
    """

    api: str
    name: str
    is_package: bool

    def command(self, url: str, model: str) -> list[str]:
        """The command line for a gateway at this URL."""
        if self.is_package:
            return [sys.executable, "-c", PROGRAMS[self.api], url, model]
        messages = [{"role": "user", "content": "hi"}]
        return plain_request(url + PATHS[self.api], json.dumps({"model": model, "messages": messages, "stream": False}))

    def has_answer(self, output: str, model: str) -> bool:
        """Whether the program has printed the answer of the simulated model."""
        expected = f"{model} says hello"
        return output == expected if self.is_package else expected in output


def client_of(api: str) -> ChatClient:
    """The client for an API that this host has."""
    if importlib.util.find_spec(api) is not None:
        return ChatClient(api, f"the {api} package", is_package=True)
    return ChatClient(api, f"{plain_name()} at {PATHS[api]}", is_package=False)


def plain_name() -> str:
    """The program that sends plain HTTP requests."""
    return "curl" if shutil.which("curl") else "Python's urllib"


def plain_request(url: str, body: str = "") -> list[str]:
    """The command line of a plain HTTP request.

    Args:
        url: the address.
        body: JSON to send; "" sends a GET request.
    """
    if shutil.which("curl") is None:
        return [sys.executable, "-c", PLAIN, url, *([body] if body else [])]
    # Debian 12's curl has --json, older ones do not.
    data = ["--header", "Content-Type: application/json", "--data", body] if body else []
    return ["curl", "--silent", "--show-error", "--fail", *data, url]
