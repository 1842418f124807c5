"""The services themselves, asked over HTTP: what gpumand believes is compared with what they say."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import aiohttp

TIMEOUT_SEC = 20.0


class ServiceFailed(Exception):
    """A service did not answer as it should; the message is one line."""


class Services:
    """HTTP to the services; an async context manager."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SEC))

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def health(self, name: str) -> dict[str, Any]:
        """What a service says of itself."""
        answer: dict[str, Any] = await self._ask("GET", name, "/health")
        return answer

    async def words(self, name: str) -> list[str]:
        """What happened to it so far: "load-called", "loaded", "unload-called", "freed", "oom"."""
        return [word for _, word in await self._ask("GET", name, "/events")]

    async def work(self, name: str, seconds: float) -> None:
        """Have it work, as a client of it would."""
        await self._ask("POST", name, "/work", {"seconds": seconds})

    async def _ask(self, method: str, name: str, path: str, body: Any = None) -> Any:
        try:
            async with self._session.request(method, self._urls[name] + path, json=body) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceFailed(f"{name} does not answer {path}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise ServiceFailed(f"{name} answers {path} with {response.status}: {answer}")
        return answer
