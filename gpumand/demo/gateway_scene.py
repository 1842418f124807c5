"""The second part of the demonstration: programs that were never changed, at one address, with two models."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from gpumand.cli.client import Client
from gpumand.demo.example_services import GEMMA, QWEN
from gpumand.demo.scenario import ScenarioFailed
from gpumand.demo.screen import Screen

CLIENT_SEC = 40.0

OPENAI = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
messages = [{"role": "user", "content": "hi"}]
for part in client.chat.completions.create(model=sys.argv[2], messages=messages, stream=True):
    print(part.choices[0].delta.content, end="", flush=True)
"""
OLLAMA = """
import sys, ollama
client = ollama.Client(host=sys.argv[1])
messages = [{"role": "user", "content": "hi"}]
for part in client.chat(model=sys.argv[2], messages=messages, stream=True):
    print(part["message"]["content"], end="", flush=True)
"""


class GatewayScene:
    """Runs the clients and checks what they get.

    Args:
        client: a client of gpumand, to compare the clients' answers with its state.
        url: the gateway's own address.
        screen: where steps and checks are printed.
        first_step: number of the first step.

    Attributes:
        checks: number of checks that passed.
        current_step: number and title of the running step, for error messages.
    """

    def __init__(self, client: Client, url: str, screen: Screen, first_step: int) -> None:
        self._client, self._url, self._screen, self._first = client, url, screen, first_step
        self.checks = 0
        self.current_step = ""

    async def run(self) -> None:
        """Run all steps. Raises ScenarioFailed, and errors of the bus."""
        for number, (title, run_step) in enumerate(self._steps(), self._first):
            self.current_step = f"step {number} ({title})"
            self._screen.step(number, title)
            await run_step()
            self._screen.show(await self._client.status())
            self._screen.print_device()
            await self._screen.pause()

    def _steps(self) -> list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        return [
            (f"One address, {self._url}, serves two models that do not fit together", self._list_models),
            (f"The openai package streams from {QWEN.name}, which is loaded first", self._openai),
            (f"The ollama package streams from {GEMMA.name}: {QWEN.name} makes room", self._ollama),
            ("Both at the same time", self._both),
            ("curl", self._curl),
        ]

    async def _list_models(self) -> None:
        listed = await self._get("/v1/models")
        self._check(QWEN.name in listed and GEMMA.name in listed, "both models are listed", listed)
        self._check(await self._resident() == set(), "and none of them was loaded for that")

    async def _openai(self) -> None:
        await self._talk("openai", OPENAI, QWEN.name)
        self._check(await self._resident() == {QWEN.name}, f"only {QWEN.name} is resident")

    async def _ollama(self) -> None:
        await self._talk("ollama", OLLAMA, GEMMA.name)
        self._check(await self._resident() == {GEMMA.name}, f"only {GEMMA.name} is resident")

    async def _both(self) -> None:
        began = time.monotonic()
        await asyncio.gather(self._talk("openai", OPENAI, QWEN.name), self._talk("ollama", OLLAMA, GEMMA.name))
        resident = await self._resident()
        took = f"{time.monotonic() - began:.1f} s in all"
        self._check(len(resident) == 1, f"one waited for the other, since only one fits: {took}", resident)

    async def _curl(self) -> None:
        body = f'{{"model": "{GEMMA.name}", "messages": [{{"role": "user", "content": "hi"}}], "stream": false}}'
        answer = await self._get("/api/chat", "--json", body)
        self._check(f"{GEMMA.name} says hello" in answer, f"curl got its answer from {GEMMA.name}", answer)

    async def _talk(self, package: str, program: str, model: str) -> None:
        if importlib.util.find_spec(package) is None:
            raise ScenarioFailed(f"the Python package {package} is not installed. Install it: pip install {package}")
        said = await _output(sys.executable, "-c", program, self._url, model)
        self._check(said == f"{model} says hello", f"{package} got: {model} says hello", said)

    async def _get(self, path: str, *options: str) -> str:
        if shutil.which("curl") is None:
            raise ScenarioFailed("curl is not installed. Install it: apt install curl")
        return await _output("curl", "--silent", "--show-error", "--fail", *options, self._url + path)

    async def _resident(self) -> set[str]:
        status = await self._client.status()
        return {one["name"] for one in status["consumers"] if one["residency"] == "resident"}

    def _check(self, is_true: bool, text: str, found: Any = "") -> None:
        if not is_true:
            self._screen.check_failed(text)
            raise ScenarioFailed(f"expected: {text}; found: {str(found)[:200]}")
        self.checks += 1
        self._screen.check_passed(text)


async def _output(*command: str) -> str:
    """What a program printed. Raises ScenarioFailed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(CLIENT_SEC):
            out, errors = await process.communicate()
    except TimeoutError:
        raise ScenarioFailed(f"{command[0]} got no answer within {CLIENT_SEC:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ScenarioFailed(f"{command[0]} ended with status {process.returncode}: {lines[-1][:200]}")
    return out.decode(errors="replace").strip()
