"""What a consumer process can be told to do wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web


class Kind(StrEnum):
    """Faults; each as its line says, on the routes it is set for.

    Those that change an answer (slow, endless, huge-json, garbage) let the work be done; those that replace it (hang,
    redirect, error-500, refuse-load) do not.
    """

    LYING_UNLOAD = "lying-unload"  # 200, "not loaded", and nothing freed
    PARTIAL_UNLOAD = "partial-unload"  # 200, "not loaded", and `mib` freed
    STUCK_LOADED = "stuck-loaded"  # unloads, and says "loaded" for ever
    REFUSE_LOAD = "refuse-load"  # load answers 500
    ERROR_500 = "error-500"
    SLOW = "slow"  # answers `seconds` later
    HANG = "hang"  # never answers
    REDIRECT = "redirect"  # 302 to `url`
    ENDLESS = "endless"  # an answer without end
    HUGE_JSON = "huge-json"  # 1 MiB of it
    GARBAGE = "garbage"  # bytes that are no JSON
    CRASH = "crash"  # the process ends in the middle


ROUTES = frozenset({"health", "load", "unload", "work"})
_DEFAULT_ROUTES: dict[Kind, frozenset[str]] = {
    Kind.LYING_UNLOAD: frozenset({"unload"}),
    Kind.PARTIAL_UNLOAD: frozenset({"unload"}),
    Kind.STUCK_LOADED: frozenset({"health"}),
    Kind.REFUSE_LOAD: frozenset({"load"}),
    Kind.CRASH: frozenset({"load", "unload"}),
}


class BadFault(Exception):
    """A fault that does not exist; the message is one line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: see Kind.
        on: on which routes: "health", "load", "unload" (and /free), "work".
        seconds: for "slow".
        mib: for "partial-unload".
        url: for "redirect".
    """

    kind: Kind
    on: frozenset[str]
    seconds: float = 0.0
    mib: int = 0
    url: str = "http://127.0.0.1:1/"


@dataclass(slots=True)
class Faults:
    """The faults that are set, one of each kind."""

    by_kind: dict[Kind, Fault] = field(default_factory=dict)

    def set(self, fields: Mapping[str, Any]) -> None:
        """Set the fault that ``{"kind": …, "on": …, …}`` describes; kind "none" takes all back. Raises BadFault."""
        if fields.get("kind") == "none":
            self.by_kind.clear()
            return
        fault = _fault(fields)
        self.by_kind[fault.kind] = fault

    def on(self, kind: Kind, route: str) -> Fault | None:
        """The fault of that kind, where it is set for that route."""
        fault = self.by_kind.get(kind)
        return fault if fault is not None and route in fault.on else None

    async def before(self, route: str) -> None:
        """What happens instead of the work, if anything: raises the answer, or never returns."""
        if self.on(Kind.HANG, route):
            await asyncio.Event().wait()
        if fault := self.on(Kind.REDIRECT, route):
            raise web.HTTPFound(fault.url)
        if self.on(Kind.ERROR_500, route) or self.on(Kind.REFUSE_LOAD, route):
            raise web.HTTPInternalServerError(text="as told")

    async def after(self, route: str, request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        """The answer, as the faults spoil it."""
        if fault := self.on(Kind.SLOW, route):
            await asyncio.sleep(fault.seconds)
        if self.on(Kind.ENDLESS, route):
            await _endless(request)
        if self.on(Kind.GARBAGE, route):
            return web.Response(body=b"\x00\xff{]" * 64, content_type="application/json")
        if self.on(Kind.HUGE_JSON, route):
            answer = {"padding": "x" * (1 << 20), **answer}
        return web.json_response(answer)


def parse_flag(text: str) -> dict[str, Any]:
    """``kind`` or ``kind:key=value,key=value`` as fields."""
    kind, _, rest = text.partition(":")
    pairs = (item.partition("=") for item in rest.split(",") if item)
    return {"kind": kind, **{key: value for key, _, value in pairs}}


def _fault(fields: Mapping[str, Any]) -> Fault:
    unknown = fields.keys() - {"kind", "on", "seconds", "mib", "url"}
    if unknown:
        raise BadFault(f"unknown key {min(unknown)!r}")
    try:
        kind = Kind(str(fields.get("kind")))
        on = frozenset({str(fields["on"])}) if fields.get("on") else _DEFAULT_ROUTES.get(kind, ROUTES)
        seconds, mib = float(fields.get("seconds", 0.0)), int(fields.get("mib", 0))
    except (TypeError, ValueError) as error:
        raise BadFault(f"no such fault: {error}") from None
    if not on <= ROUTES:
        raise BadFault(f"no such route: {min(on)!r}")
    return Fault(kind, on, seconds, mib, str(fields.get("url", "http://127.0.0.1:1/")))


async def _endless(request: web.Request) -> None:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)
