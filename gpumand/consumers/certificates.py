"""The certificates of the system: read at the first request to an https server, by the daemon and by the gateway.

Reading them costs 2 MB and some ms in every process, and nearly all servers of a GPU host speak plain HTTP on this
host.
"""

from __future__ import annotations

import asyncio
import ssl


class Certificates:
    """The TLS context of requests to https servers. Create it inside a running event loop."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._reading = asyncio.Lock()

    async def context_for(self, url: str) -> ssl.SSLContext | bool:
        """Return the context for a URL; True for plain HTTP, as aiohttp's ``ssl`` argument expects."""
        if not url.startswith("https:"):
            return True
        async with self._reading:
            if self._context is None:
                # Reading 150 certificates takes 20 ms, which would block the event loop.
                self._context = await asyncio.to_thread(ssl.create_default_context)
        return self._context
