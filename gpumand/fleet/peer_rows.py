"""Asks the agents of other hosts for their rows: for a fleet without etcd, and while etcd cannot be reached."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from gpumand.fleet.etcd_errors import tls_failure
from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.row_json import MAX_ROW_BYTES, parse_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.sessions import open_session

CONNECT_SEC = 1.0
ANSWER_SEC = 2.0


class PeerUnreachable(Exception):
    """An agent did not answer with a row; the message is one line."""


class PeerRows:
    """Reads rows of agents.

    Args:
        tls: context with the certificate of this host; None = connections are not encrypted.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def read(self, url: str) -> HostRow:
        """Ask an agent for its row.

        Args:
            url: URL of the agent. It may come from another host's row, so with certificates only https is used.

        Raises PeerUnreachable, within a limited time.
        """
        if not url.startswith("https://" if self._tls else "http://"):
            raise PeerUnreachable(
                f"{url[:80]} is not used: this host connects {'with' if self._tls else 'without'} TLS"
            )
        async with self._answer(f"{url.rstrip('/')}/v1/row") as answer:
            text = await answer.content.read(MAX_ROW_BYTES + 1) if answer.status == 200 else b""
            while text and len(text) <= MAX_ROW_BYTES and (part := await answer.content.readany()):
                text += part
        if answer.status != 200:
            raise PeerUnreachable(f"{url} answers HTTP {answer.status}")
        try:
            return parse_host(text.decode())
        except (InvalidJson, UnicodeDecodeError) as error:
            raise PeerUnreachable(f"{url} answers with a row that cannot be read: {error}") from None

    @asynccontextmanager
    async def _answer(self, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SEC, sock_connect=CONNECT_SEC)
        try:
            async with self._opened().get(url, timeout=timeout, allow_redirects=False) as answer:
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            reason = tls_failure(error) or ("no answer in time" if isinstance(error, TimeoutError) else str(error))
            raise PeerUnreachable(f"{url}: {reason[:200] or type(error).__name__}") from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(self._tls)
        return self._session
