"""The second part of the demonstration: programs that were never changed, at one address, with two models."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gpumand.cli.client import Client
from gpumand.demo.chat_clients import OLLAMA, OPENAI, ChatClient, client_of, plain_name, plain_request
from gpumand.demo.example_services import GEMMA, QWEN
from gpumand.demo.screen import Screen
from gpumand.demo.steps import ScenarioFailed, Step, Steps

CLIENT_SEC = 90.0


class GatewayScene:
    """Runs the clients and checks what they get.

    Args:
        client: a client of gpumand, to compare the clients' answers with its state.
        url: the gateway's own address.
        screen: where steps and checks are printed.

    Attributes:
        checks: number of checks that passed.
    """

    def __init__(self, client: Client, url: str, screen: Screen) -> None:
        self._client, self._url, self._screen = client, url, screen
        self._runner = Steps(screen, client.status)
        self.checks = 0

    @property
    def current_step(self) -> str:
        """Number and title of the running step, for error messages."""
        return self._runner.current

    async def run(self, first_step: int, first_chapter: int) -> None:
        """Run all steps. Raises ScenarioFailed, and errors of the bus.

        Args:
            first_step: number of the first step.
            first_chapter: number of the part of the story.
        """
        await self._runner.run(self._steps(), first_step, first_chapter)

    def _steps(self) -> list[Step]:
        chapter = f"Unchanged programs use the gateway: one address for {QWEN.name} and {GEMMA.name}"
        openai, ollama = client_of(OPENAI), client_of(OLLAMA)
        return [
            Step(f"One address, {self._url}, serves two models that do not fit together", self._list_models, chapter),
            Step(f"{openai.name} streams from {QWEN.name}, which is loaded first", self._talk_to_qwen),
            Step(f"{ollama.name} streams from {GEMMA.name}: {QWEN.name} makes room", self._talk_to_gemma),
            Step("Both at the same time", self._talk_to_both),
            Step(f"A plain request of {plain_name()}", self._plain_request),
        ]

    async def _list_models(self) -> None:
        listed = await _output(*plain_request(self._url + "/v1/models"))
        self._check(QWEN.name in listed and GEMMA.name in listed, "both models are listed", listed)
        self._check(await self._resident() == set(), "and none of them was loaded for that")

    async def _talk_to_qwen(self) -> None:
        self._screen.story(await self._talk(OPENAI, QWEN.name))
        self._check(await self._resident() == {QWEN.name}, f"only {QWEN.name} is resident")

    async def _talk_to_gemma(self) -> None:
        self._screen.story(await self._talk(OLLAMA, GEMMA.name))
        self._check(await self._resident() == {GEMMA.name}, f"only {GEMMA.name} is resident")

    async def _talk_to_both(self) -> None:
        began = time.monotonic()
        await asyncio.gather(self._talk(OPENAI, QWEN.name), self._talk(OLLAMA, GEMMA.name))
        resident = await self._resident()
        took = f"{time.monotonic() - began:.1f} s in all"
        self._check(len(resident) == 1, f"one waited for the other, since only one fits: {took}", resident)
        self._screen.story(f"Both at once: one waits for the other. Both are answered, {took}.")

    async def _plain_request(self) -> None:
        plain = ChatClient(OLLAMA, plain_name(), is_package=False)
        answer = await _output(*plain.command(self._url, GEMMA.name))
        self._check(plain.has_answer(answer, GEMMA.name), f"{plain.name} got its answer from {GEMMA.name}", answer)

    async def _talk(self, api: str, model: str) -> str:
        """Ask a model, check the answer, and return a sentence about it."""
        began, program = time.monotonic(), client_of(api)
        said = await _output(*program.command(self._url, model))
        self._check(program.has_answer(said, model), f"{program.name} got: {model} says hello", said)
        return f'{program.name}: "{model} says hello" after {time.monotonic() - began:.1f} s, with loading'

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
