"""Asks consumers for their lists of models when clients want them, without loading any, and keeps the answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gpumand.gateway import catalog
from gpumand.gateway.catalog import MAX_LIST_BYTES, Catalog, Lists
from gpumand.gateway.refusals import Refused
from gpumand.gateway.upstream import Endpoint, UpstreamDown, Upstreams

log = logging.getLogger(__name__)

FRESH_SEC = 1.0
"""How old the lists of a running consumer may be."""

KNOWN_WAIT_SEC = 0.03
"""How long a client waits for fresh lists where there are older ones: clients expect lists at once."""

UNKNOWN_WAIT_SEC = 3.0
"""How long a client waits where nothing is known yet."""

FETCH_SEC = 5.0

BESIDE_SEC = 60.0
"""How old the lists of a consumer get while its listener answers lists: they are used only while it is stopped."""


@dataclass(frozen=True, slots=True)
class Source:
    """A consumer that has lists.

    Attributes:
        consumer: its name.
        endpoint: where it is.
        headers: headers with its own API key, if it has one.
        has_openai, has_ollama: which lists it has.
    """

    consumer: str
    endpoint: Endpoint
    headers: dict[str, str]
    has_openai: bool
    has_ollama: bool


class CatalogReader:
    """Refreshes the catalog. Create it inside a running event loop.

    Args:
        upstreams: the HTTP clients.
        folder: returns the state directory.
    """

    def __init__(self, upstreams: Upstreams, folder: Callable[[], Path]) -> None:
        self.catalog = Catalog()
        self._upstreams, self._folder = upstreams, folder
        self._read_at: dict[str, float] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._saving: asyncio.Task[None] | None = None
        self._saved = b""
        self._clock = asyncio.get_running_loop().time

    async def start(self) -> None:
        """Read the lists of the last time."""
        self.catalog = await asyncio.to_thread(catalog.load, self._folder())
        self._saved = self.catalog.to_json()

    async def close(self) -> None:
        """End what is under way; lists that were not saved yet are saved."""
        for task in tuple(self._reading.values()):
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)
        if self._saving is not None:
            await self._saving

    async def refresh(self, sources: Iterable[Source]) -> None:
        """Bring the lists up to date, as far as that is possible within the time that a client waits for lists."""
        wanted = [one for one in sources if self._clock() - self._read_at.get(one.consumer, -FETCH_SEC) > FRESH_SEC]
        known = [self._task(one) for one in wanted if not self.catalog.of(one.consumer).is_empty]
        unknown = [self._task(one) for one in wanted if self.catalog.of(one.consumer).is_empty]
        if unknown:
            await asyncio.wait(unknown, timeout=UNKNOWN_WAIT_SEC)
        if known:
            await asyncio.wait(known, timeout=KNOWN_WAIT_SEC)

    def read_beside(self, source: Source) -> None:
        """Read the lists of a consumer in the background, unless that was done within the last minute."""
        if self._clock() - self._read_at.get(source.consumer, -BESIDE_SEC) >= BESIDE_SEC:
            self._task(source)

    def _task(self, source: Source) -> asyncio.Task[None]:
        task = self._reading.get(source.consumer)
        if task is None:
            task = self._reading[source.consumer] = asyncio.ensure_future(self._read(source))
        return task

    async def _read(self, source: Source) -> None:
        try:
            async with asyncio.timeout(FETCH_SEC):
                self.catalog.lists[source.consumer] = await self._lists(source)
        except (UpstreamDown, Refused, TimeoutError, aiohttp.ClientError, OSError, ValueError, RecursionError):
            # A server that is stopped keeps its lists, but has no models in memory.
            self.catalog.of(source.consumer).running = ()
        finally:
            self._read_at[source.consumer] = self._clock()
            del self._reading[source.consumer]
            self._save()

    async def _lists(self, source: Source) -> Lists:
        found, old = Lists(), self.catalog.of(source.consumer)
        if source.has_openai:
            document = await self._fetch(source, "/v1/models")
            found.openai = catalog.read_openai(document) if document is not None else old.openai
        if source.has_ollama:
            document = await self._fetch(source, "/api/tags")
            found.ollama = catalog.read_ollama(document) if document is not None else old.ollama
            found.running = catalog.read_ollama(await self._fetch(source, "/api/ps"))
            found.version = catalog.read_version(await self._fetch(source, "/api/version")) or old.version
        return found

    async def _fetch(self, source: Source, path: str) -> Any:
        """The document of a route; None if the answer is not usable. Raises the errors of Upstreams.request."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"} | source.headers
        answer = await self._upstreams.request(source.endpoint, "GET", path, headers, None)
        try:
            body = bytearray()
            while chunk := await answer.content.readany():
                body += chunk
                if len(body) > MAX_LIST_BYTES:
                    return None
        finally:
            answer.close() if not answer.content.at_eof() else answer.release()
        if answer.status != 200:
            return None
        return await asyncio.to_thread(json.loads, bytes(body))

    # -- the file ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.ensure_future(self._save_changes())

    async def _save_changes(self) -> None:
        while (content := self.catalog.to_json()) != self._saved:
            self._saved = content
            try:
                await asyncio.to_thread(catalog.save, self._folder(), content)
            except OSError as error:
                log.warning("the lists of models cannot be saved in %s: %s", self._folder(), error.strerror)
