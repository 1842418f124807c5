"""HTTP client of the services, to compare their own reports with those of gpumand."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import aiohttp

TIMEOUT_SEC = 60.0


class ServiceFailed(Exception):
    """A service did not answer, or answered with an error; the message is one line."""


class ServiceClient:
    """HTTP connections to the services; an async context manager."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SEC))

    async def __aenter__(self) -> ServiceClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def health(self, name: str) -> dict[str, Any]:
        """The answer of a service's health route."""
        answer: dict[str, Any] = await self._request("GET", name, "/health")
        return answer

    async def events(self, name: str) -> list[str]:
        """The events of a service so far: "load-called", "loaded", "unload-called", "freed", "oom"."""
        return [event for _, event in await self._request("GET", name, "/events")]

    async def work(self, name: str, seconds: float) -> None:
        """Send a work request to a service, as one of its clients would."""
        await self._request("POST", name, "/work", {"seconds": seconds})

    async def _request(self, method: str, name: str, path: str, body: Any = None) -> Any:
        try:
            async with self._session.request(method, self._urls[name] + path, json=body) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceFailed(f"{name} did not answer {path}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise ServiceFailed(f"{name} answered {path} with HTTP status {response.status}: {answer}")
        return answer
