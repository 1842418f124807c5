"""Requests that only look: identical ones share an answer, and some answers are kept while their server is stopped.

Pages and scripts poll several times a second. Identical reads within a second are answered by one request to the
consumer. An answer is shared only if it is small and complete; others are streams, which each client gets by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from gpumand.gateway import web
from gpumand.gateway.bodies import is_encoded
from gpumand.gateway.dialects import JSON
from gpumand.gateway.exchange import Exchange

SHARE_SEC = 1.0
MAX_BYTES = 512 * 1024
MAX_SHARED = 128
MAX_REMEMBERED = 256
MAX_REMEMBERED_BYTES = 32 * 1024 * 1024

_HARMLESS = frozenset(
    {
        "accept-charset",
        "baggage",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "dnt",
        "keep-alive",
        "pragma",
        "priority",
        "referer",
        "save-data",
        "sec-gpc",
        "te",
        "traceparent",
        "tracestate",
        "upgrade-insecure-requests",
        "user-agent",
        "via",
        "x-correlation-id",
        "x-request-id",
    }
)
"""Headers on which no answer depends, unless its Vary header names them. Any other may name the user: ComfyUI has
Comfy-User, and login proxies have their own headers."""

# Not Sec-Fetch-Site: ComfyUI refuses requests of other web sites by it.
_HARMLESS_PREFIXES = ("sec-ch-", "x-stainless-", "x-b3-")

_FORM = frozenset(
    {
        "accept",
        "accept-language",
        "host",
        "if-modified-since",
        "if-none-match",
        "origin",
        "range",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-user",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-requested-with",
    }
)
"""Headers that may change the form of an answer, and not for which user it is meant."""

MAX_QUESTION_BYTES = 8 * 1024
"""A larger body is no question about a model: it is passed on as it arrives, and its answer is not kept."""

Key = tuple[str, str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer, complete in memory."""

    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def is_small(self) -> bool:
        """Whether it may be kept; a head may be much larger than a body that is read into memory."""
        return self.size <= MAX_BYTES

    @property
    def size(self) -> int:
        """Bytes of its head and its body."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers.items())

    @property
    def is_personal(self) -> bool:
        """Whether it is meant for one client: it sets a cookie, or says so."""
        return "Set-Cookie" in self.headers or "private" in self._directives

    @property
    def may_be_shared(self) -> bool:
        """Whether identical requests may get it too."""
        varies = ",".join(self.headers.getall("Vary", ())).lower().split(",")
        varies_unseen = any(one.strip() == "*" or _is_harmless(one.strip()) for one in varies)
        is_private = self.is_personal or "no-store" in self._directives
        return self.is_small and not is_private and not varies_unseen

    @property
    def _directives(self) -> frozenset[str]:
        values = ",".join(self.headers.getall("Cache-Control", ())).lower().split(",")
        return frozenset(one.partition("=")[0].strip() for one in values)

    def response(self) -> web.Response:
        """The answer for one more client."""
        return web.Response(status=self.status, reason=self.reason, headers=CIMultiDict(self.headers), body=self.body)


def key_of(exchange: Exchange) -> Key | None:
    """What identical requests have in common; None for a request whose answer is not shared."""
    request = exchange.request
    if request.method != "GET" or request.body_exists:
        return None
    return exchange.service.consumer, exchange.target.raw, _varying(request)


def _varying(request: web.BaseRequest, without: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """The headers on which an answer may depend, except these."""
    pairs = ((name.lower(), value) for name, value in request.headers.items())
    return tuple(sorted((name, value) for name, value in pairs if not (name in without or _is_harmless(name))))


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(_HARMLESS_PREFIXES)


def may_be_small(answer: aiohttp.ClientResponse) -> bool:
    """Whether an answer is worth reading into memory: it ends by itself, and no size above the limit is announced."""
    if answer.status == 206:
        return False
    if answer.content_length is not None:
        return answer.content_length <= MAX_BYTES
    return answer.content_type == JSON


async def read_small(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """Read an answer up to the limit; returns what was read, and whether it is complete."""
    body = bytearray()
    while len(body) <= MAX_BYTES:
        chunk = await answer.content.readany()
        if not chunk:
            return bytes(body), True
        body += chunk
    return bytes(body), False


class SharedAnswers:
    """Answers of the last second, and requests for them that are under way."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[float, asyncio.Future[Answer | None]]] = OrderedDict()
        self._clock = asyncio.get_running_loop().time

    def find(self, key: Key) -> asyncio.Future[Answer | None] | None:
        """A fresh answer, or one that is under way; its result is None if it turned out not to be shareable."""
        found = self._answers.get(key)
        if found is None or (found[1].done() and self._clock() - found[0] > SHARE_SEC):
            return None
        return found[1]

    def begin(self, key: Key) -> asyncio.Future[Answer | None]:
        """Announce a request; the caller must resolve the future in any case, by ``end``."""
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._answers[key] = self._clock(), future
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_SHARED:
            self._answers.popitem(last=False)
        return future

    def end(self, key: Key, future: asyncio.Future[Answer | None], answer: Answer | None) -> None:
        """Resolve a request that was announced."""
        if not future.done():
            future.set_result(answer)
        if answer is None and self._answers.get(key, (0.0, None))[1] is future:
            del self._answers[key]
        elif answer is not None and key in self._answers:
            self._answers[key] = self._clock(), future
            asyncio.get_running_loop().call_later(SHARE_SEC, self._expire, key, future)

    def _expire(self, key: Key, future: asyncio.Future[Answer | None]) -> None:
        """Free the memory of an answer that is no longer fresh."""
        if self._answers.get(key, (0.0, None))[1] is future:
            del self._answers[key]


def is_question(exchange: Exchange) -> bool:
    """Whether a request asks by its body, and its answer is kept: the body has to be read before it is passed on."""
    request, length = exchange.request, exchange.request.content_length
    if request.method != "POST" or not exchange.service.rules.remembers("POST", exchange.target.path):
        return False
    return length is not None and length <= MAX_QUESTION_BYTES and not is_encoded(request)


class Memory:
    """The last answers to routes that are answered while their server is stopped."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._bytes = 0

    def keep(self, exchange: Exchange, answer: Answer) -> None:
        """Keep an answer, if it is one of a route that is remembered."""
        key = self._key(exchange)
        is_kept = answer.status == 200 and answer.is_small and not answer.is_personal
        if key is None or not is_kept or exchange.request.method == "HEAD":
            return
        self._drop(key)
        self._answers[key] = answer
        self._bytes += answer.size
        while len(self._answers) > MAX_REMEMBERED or self._bytes > MAX_REMEMBERED_BYTES:
            self._drop(next(iter(self._answers)))

    def find(self, exchange: Exchange) -> Answer | None:
        """The last answer to the same request; HEAD is answered as GET was, without the body."""
        key = self._key(exchange)
        return self._answers.get(key) if key is not None else None

    def _key(self, exchange: Exchange) -> Key | None:
        request, question = exchange.request, ""
        if request.method == "POST" and is_question(exchange) and exchange.body is not None:
            question = hashlib.sha256(exchange.body.data()).hexdigest()
        elif request.method not in ("GET", "HEAD") or not exchange.service.rules.remembers("GET", exchange.target.path):
            return None
        # A client gets only what was answered to its own credentials.
        return exchange.service.consumer, exchange.target.raw, (question, *_varying(request, _FORM))

    def _drop(self, key: Key) -> None:
        if (old := self._answers.pop(key, None)) is not None:
            self._bytes -= old.size
