"""Follows the keys below a prefix in etcd, and reports when it may have missed a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp

from gpumand.fleet import etcd_kv
from gpumand.fleet.etcd_client import EtcdClient, Json, error_of, parse_answer
from gpumand.fleet.etcd_errors import EtcdError, as_store_error
from gpumand.fleet.etcd_list import list_entries
from gpumand.fleet.store import Change, Denied, Interrupted, Listing, Removed, StoreError, StoreUnavailable, Written

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
PAUSE_SEC = 0.5
QUIET_SEC = 3.0
"""After this long without a message a watch checks that its member still has a leader. A member on the wrong side of a
partition keeps the connection open and is silent."""


class EtcdWatch:
    """One watch.

    Args:
        client: the client.
        prefix: prefix of the keys.
    """

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._what = f"a watch of {prefix}"

    async def changes(self) -> AsyncGenerator[Change, None]:
        """Report changes without end; see ``FleetStore.watch``. Raises Denied.

        After an interruption the reader gets a whole listing, not the changes since: it has marked its table as old,
        and etcd may have compacted the changes away.
        """
        is_interrupted = False
        while True:
            try:
                async with aclosing(self._once()) as changes:
                    async for change in changes:
                        is_interrupted = False
                        yield change
            except Denied:
                raise
            except StoreError as error:
                if not is_interrupted:
                    is_interrupted = True
                    yield Interrupted(str(error))
                await asyncio.sleep(PAUSE_SEC)

    async def _once(self) -> AsyncGenerator[Change, None]:
        """Report a listing and the changes after it. Returns if etcd has compacted the next change away."""
        listing = await list_entries(self._client, self._prefix)
        yield listing
        endpoint = self._client.endpoint
        try:
            async with aclosing(self._follow(endpoint, listing)) as changes:
                async for change in changes:
                    yield change
        except StoreError:
            self._client.leave(endpoint)
            raise

    async def _follow(self, endpoint: str, listing: Listing) -> AsyncGenerator[Change, None]:
        body = {"create_request": {**etcd_kv.key_range(self._prefix), "start_revision": str(listing.revision + 1)}}
        async with self._client.stream(endpoint, "watch", body, self._what) as content:
            lines = _Lines(content)
            while (line := await self._line(lines, endpoint)) is not None:
                message = _parsed(line, self._what)
                if _is_compacted(message, self._what):
                    return
                for event in etcd_kv.elements(message, "events"):
                    yield _change(event)
        raise StoreUnavailable(f"{self._what} was ended by {endpoint}")

    async def _line(self, lines: _Lines, endpoint: str) -> bytes | None:
        """The next line; None at the end of the stream."""
        reading = asyncio.ensure_future(lines.next())
        try:
            while not (await asyncio.wait([reading], timeout=QUIET_SEC))[0]:
                await self._check_member(endpoint)
            return reading.result()
        finally:
            reading.cancel()

    async def _check_member(self, endpoint: str) -> None:
        """Ask the member of the watch for the number of keys, which it only answers while it has a leader."""
        body = {**etcd_kv.key_range(self._prefix), "count_only": True}
        await self._client.call_at(endpoint, "kv/range", body, self._what)


class _Lines:
    """The lines of a stream. ``readline`` of aiohttp refuses lines of the size that a message can have."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._rest = b""

    async def next(self) -> bytes | None:
        """The next line; None at the end of the stream. Raises StoreUnavailable if it is too long."""
        while b"\n" not in self._rest:
            part = await self._content.readany()
            if not part:
                return None
            self._rest += part
            if len(self._rest) > MAX_MESSAGE_BYTES:
                raise StoreUnavailable(f"etcd sends a message of more than {MAX_MESSAGE_BYTES} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _parsed(line: bytes, what: str) -> Json:
    answer = parse_answer(line)
    if answer is None:
        raise StoreUnavailable("etcd sends a message that is not JSON")
    if (error := _stream_error(answer)) is not None:
        raise as_store_error(error, what)
    return etcd_kv.fields(answer, "result")


def _stream_error(answer: Json) -> EtcdError | None:
    """The error of a stream, which has its code under another name than other errors."""
    error = etcd_kv.fields(answer, "error")
    return error_of({"code": error.get("grpc_code", error.get("code")), "message": error.get("message")})


def _is_compacted(message: Json, what: str) -> bool:
    """Whether etcd ended the watch because its position was compacted. Raises StoreError for other reasons."""
    if not message.get("canceled"):
        return False
    if etcd_kv.number(message, "compact_revision"):
        return True
    raise as_store_error(EtcdError(0, str(message.get("cancel_reason", "no reason given"))), what)


def _change(event: dict[str, Any]) -> Written | Removed:
    found = etcd_kv.key_value(etcd_kv.fields(event, "kv")).entry
    return Removed(found.key, found.revision) if event.get("type") == "DELETE" else Written(found)
