"""Reads small JSON bodies before a request waits, because they decide about the form of its answer.

Everything else stays with the client until the lease is granted: what is not read costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

from gpumand.gateway import web
from gpumand.gateway.dialects import JSON, MODEL_PATHS
from gpumand.gateway.paths import Target
from gpumand.gateway.refusals import refused
from gpumand.gateway.request_body import answer_expect

MAX_BYTES = 1024 * 1024
MAX_HELD_BYTES = 256 * 1024 * 1024
READ_SEC = 30.0


def is_read_early(request: web.BaseRequest, target: Target) -> bool:
    """Whether the body is read before the request waits."""
    length = request.content_length
    is_json = request.content_type == JSON and not is_encoded(request)
    return is_json and target.path in MODEL_PATHS and length is not None and length <= MAX_BYTES


def is_encoded(request: web.BaseRequest) -> bool:
    """Whether the body is compressed, so that it cannot be read; "identity" stands for no compression."""
    codings = ",".join(request.headers.getall("Content-Encoding", ())).lower().split(",")
    return any(one.strip() not in ("", "identity") for one in codings)


class BodyBudget:
    """Limits the memory of bodies that were read before their requests wait.

    Args:
        max_bytes: maximum size of all of them.
    """

    def __init__(self, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_bytes, self._held = max_bytes, 0

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold this many bytes for as long as the block runs. Raises Refused if there are too many."""
        share = self.share()
        share.add(size)
        try:
            yield
        finally:
            share.close()

    def share(self) -> BodyShare:
        """A share of the memory for one body, which grows while it is read."""
        return BodyShare(self)

    def add(self, size: int) -> None:
        """Count bytes; a negative number frees them. Raises Refused if there are too many."""
        if self._held + size > self._max_bytes:
            raise refused(429, "gpu_busy", "The bodies of waiting requests are too large in all. Try again later.", 5)
        self._held += size


class BodyShare:
    """The memory of one body.

    Args:
        budget: the memory of all bodies.
    """

    def __init__(self, budget: BodyBudget) -> None:
        self._budget, self._size = budget, 0

    def add(self, size: int) -> None:
        """Count bytes. Raises Refused if all bodies are too large."""
        self._budget.add(size)
        self._size += size

    def close(self) -> None:
        """Free the memory; may be called repeatedly."""
        self._budget.add(-self._size)
        self._size = 0


async def read_early(request: web.BaseRequest) -> bytes:
    """Read a small body. Raises Refused if it takes too long or breaks off."""
    await answer_expect(request)
    try:
        async with asyncio.timeout(READ_SEC):
            return await request.content.readexactly(request.content_length or 0)
    except TimeoutError:
        raise refused(408, "slow_body", f"The body did not arrive within {READ_SEC:g} s.") from None
    except asyncio.IncompleteReadError:
        raise refused(400, "incomplete_body", "The body ended early.") from None


def parse(body: bytes) -> object:
    """The JSON document in a body; None if it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
