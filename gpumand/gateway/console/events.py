"""Sends the state to all open pages as server-sent events. A page that is slow gets the newest state only."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from gpumand.gateway import web
from gpumand.gateway.console.state_view import UNLIMITED
from gpumand.gateway.refusals import refused
from gpumand.gateway.requests import Client

MAX_PAGES = 64
MAX_PAGES_PER_CLIENT = 16
"""Maximum number of open streams, in total and for one client that does not share its name with other programs."""

KEEPALIVE_SEC = 15.0
WRITE_SEC = 10.0
"""Interval of comments on a stream without changes, and time limit for a client to accept data."""

RETRY_MS = 1000
HELLO = f"retry: {RETRY_MS}\n\n".encode()
KEEPALIVE = b": keep-alive\n\n"


class Page:
    """The stream of one page."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._latest: bytes = b""
        self._is_closed = False
        self._changed = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Send a state, in place of one that was not sent yet."""
        self._latest = data
        self._changed.set()

    def close(self) -> None:
        """End the stream."""
        self._is_closed = True
        self._changed.set()

    async def next(self) -> bytes:
        """The next state; a comment after a long wait, and b"" after ``close``."""
        try:
            async with asyncio.timeout(KEEPALIVE_SEC):
                await self._changed.wait()
        except TimeoutError:
            return KEEPALIVE
        self._changed.clear()
        data, self._latest = self._latest, b""
        return b"" if self._is_closed else data


class EventStreams:
    """The streams of all pages.

    Args:
        first_opened: called when the first page is opened.
        last_closed: called when the last page was closed.
    """

    def __init__(self, first_opened: Callable[[], None], last_closed: Callable[[], None]) -> None:
        self._first_opened, self._last_closed = first_opened, last_closed
        self._pages: set[Page] = set()
        self._sent: dict[Client, bytes] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def publish(self, state: Callable[[Client], dict[str, Any]]) -> None:
        """Send its state to each page, unless it is the one that the page has.

        Args:
            state: returns what a client may see; pages with equal rights share it.
        """
        for viewer in {_viewer(page.client) for page in self._pages}:
            data = event("state", state(viewer))
            if data == self._sent.get(viewer):
                continue
            self._sent[viewer] = data
            for page in self._pages:
                if _viewer(page.client) == viewer:
                    page.put(data)

    async def serve(self, request: web.BaseRequest, client: Client) -> web.StreamResponse:
        """Stream states to a client until it leaves. Raises Refused."""
        page = self._join(client)
        try:
            response = web.StreamResponse(headers=stream_headers())
            await response.prepare(request)
            data = HELLO + self._sent.get(_viewer(client), b"")
            while data:
                async with asyncio.timeout(WRITE_SEC):
                    await response.write(data)
                data = await page.next()
            return response
        except TimeoutError:
            # The client does not read. Its connection is full, so that it can only be cut.
            raise ConnectionError("the client does not read its events") from None
        finally:
            self._leave(page)

    def close(self) -> None:
        """End all streams. Pages open new ones after ``RETRY_MS``, with the rights that their keys have then."""
        for page in tuple(self._pages):
            page.close()

    def _join(self, client: Client) -> Page:
        names = Counter(page.client.name for page in self._pages)
        if len(self._pages) >= MAX_PAGES or (not client.is_local and names[client.name] >= MAX_PAGES_PER_CLIENT):
            raise refused(503, "too_many_pages", "Too many pages of the gateway are open. Close one.", 30)
        page = Page(client)
        if not any(_viewer(one.client) == _viewer(client) for one in self._pages):
            # What was sent to pages that are closed is out of date.
            self._sent.pop(_viewer(client), None)
        self._pages.add(page)
        if len(self._pages) == 1:
            self._first_opened()
        return page

    def _leave(self, page: Page) -> None:
        self._pages.discard(page)
        known = {_viewer(one.client) for one in self._pages}
        self._sent = {viewer: data for viewer, data in self._sent.items() if viewer in known}
        if not self._pages:
            self._last_closed()


def _viewer(client: Client) -> Client:
    """The client as far as its rights decide what it sees: all that may see everything are one."""
    return UNLIMITED if client.consumers is None else client


def event(name: str, fields: dict[str, Any]) -> bytes:
    """An event in the format of server-sent events."""
    # One line, because json.dumps escapes line breaks.
    return f"event: {name}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n".encode("ascii")


def stream_headers() -> dict[str, str]:
    """Headers of an event stream."""
    return {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Server": "gpumand",
    }
