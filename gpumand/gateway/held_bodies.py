"""Bodies that the entrance has to read before it knows the consumer of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpumand.gateway import web
from gpumand.gateway.bodies import BodyBudget, is_encoded
from gpumand.gateway.incoming_body import BadBody
from gpumand.gateway.json_scan import MODEL, BadJson, Scan, replaced, scan
from gpumand.gateway.refusals import refused
from gpumand.gateway.request_body import answer_expect, bad_body

MAX_JSON_BYTES = 64 * 1024 * 1024
"""Maximum size of a JSON body: images are sent inside it, in base64."""

THREAD_BYTES = 1024 * 1024
"""Above this size a document is read in a thread."""

STALL_SEC = 30.0
"""Seconds that a client may stop sending its body."""

READ_SEC = 290.0
"""Seconds for a whole body that has to be read before its request is queued."""


def _nothing() -> None:
    return


@dataclass(slots=True)
class HeldBody:
    """A body, or its beginning, that was read before the request waits.

    Attributes:
        document: the members that decide about the request.
        data: returns the whole body for the consumer, as bytes or as an iterator; may be called again.
        length: its size; None = it is sent in chunks.
        close: frees the memory.
    """

    document: dict[str, object] = field(default_factory=dict)
    data: Callable[[], Any] = bytes
    length: int | None = 0
    close: Callable[[], None] = _nothing


class JsonBody:
    """A JSON body.

    Args:
        text: the body.
        found: its members.
        close: frees the memory.
        key: the member that names the model.
    """

    def __init__(self, text: bytes, found: Scan, close: Callable[[], None], key: str = MODEL) -> None:
        self._text, self._found, self.close, self._key = text, found, close, key

    @property
    def model(self) -> str:
        """The model that it names; "" if it names none."""
        model = self._found.members.get(self._key)
        return model if isinstance(model, str) else ""

    def held(self, model: str) -> HeldBody:
        """The body with the name of the model replaced, if it is another one."""
        text, span = self._text, self._found.model_span
        if span is not None and self.model != model:
            text = replaced(text, span, model)
        return HeldBody(self._found.members, lambda: text, len(text), self.close)


async def read_json(request: web.BaseRequest, budget: BodyBudget, other_key: str = "") -> JsonBody:
    """Read a JSON body. Raises Refused if it is too large, too slow or invalid.

    Args:
        request: the request.
        budget: limits the memory of bodies.
        other_key: the member that names the model where ``model`` is missing or empty; "" = none.
    """
    if is_encoded(request):
        raise refused(415, "compressed_body", "The body is compressed, so its model cannot be read. Send it as it is.")
    if (request.content_length or 0) > MAX_JSON_BYTES:
        raise _too_large()
    share = budget.share()
    try:
        text = await _read(request, share.add)
        key, found = MODEL, await _scan(text, MODEL)
        if other_key and other_key in found.members and not found.members.get(MODEL):
            key, found = other_key, await _scan(text, other_key)
        if not isinstance(found.members.get(key), str | None):
            raise BadJson(f"{key} must be a string")
        return JsonBody(text, found, share.close, key)
    except BadJson as error:
        share.close()
        raise refused(400, "invalid_json", f"The request cannot be read: {error}.") from None
    except BaseException:
        share.close()
        raise


async def _scan(text: bytes, key: str) -> Scan:
    return await asyncio.to_thread(scan, text, key) if len(text) > THREAD_BYTES else scan(text, key)


async def _read(request: web.BaseRequest, count: Callable[[int], None]) -> bytes:
    await answer_expect(request)
    text = bytearray()
    try:
        async with asyncio.timeout(READ_SEC):
            while chunk := await next_chunk(request):
                count(len(chunk))
                text += chunk
                if len(text) > MAX_JSON_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise refused(408, "slow_body", "The body did not arrive in time.") from None
    return bytes(text)


async def read_small_body(request: web.BaseRequest) -> bytes:
    """Read a body whose size is announced and small. Raises Refused if the client stops sending."""
    await answer_expect(request)
    text = bytearray()
    while chunk := await next_chunk(request):
        text += chunk
    return bytes(text)


async def next_chunk(request: web.BaseRequest) -> bytes:
    """The next part of a body, b"" at its end. Raises Refused if the client stops sending or the body is invalid."""
    try:
        async with asyncio.timeout(STALL_SEC):
            return await request.content.readany()
    except BadBody:
        raise bad_body() from None
    except TimeoutError:
        raise refused(408, "slow_body", f"The client has sent nothing for {STALL_SEC:g} s.") from None
    except web.HTTPException:
        raise
    except Exception:
        # aiohttp raises errors of several types for bodies that break off or are framed in a wrong way.
        raise refused(400, "incomplete_body", "The body ended early.") from None


def _too_large() -> Exception:
    text = f"The JSON body is larger than {MAX_JSON_BYTES >> 20} MiB, the maximum."
    return refused(413, "body_too_large", text)
