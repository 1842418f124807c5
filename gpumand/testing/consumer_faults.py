"""Faults of a simulated consumer process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web


class Kind(StrEnum):
    """Kinds of faults; each applies to the routes that it is set for.

    With faults that change the answer (slow, endless, huge-json, garbage) the work is done. With faults that replace it
    (hang, redirect, error-500, refuse-load) it is not.
    """

    LYING_UNLOAD = "lying-unload"  # 200 and "not loaded", but frees nothing
    PARTIAL_UNLOAD = "partial-unload"  # 200 and "not loaded", but frees only `mib`
    STUCK_LOADED = "stuck-loaded"  # unloads, but always reports "loaded"
    REFUSE_LOAD = "refuse-load"  # load answers with 500
    ERROR_500 = "error-500"
    SLOW = "slow"  # answers after `seconds`
    HANG = "hang"  # never answers
    REDIRECT = "redirect"  # 302 to `url`
    ENDLESS = "endless"  # an endless answer
    HUGE_JSON = "huge-json"  # an answer of 1 MiB
    GARBAGE = "garbage"  # an answer that is not JSON
    CRASH = "crash"  # the process ends during the work


ROUTES = frozenset({"health", "load", "unload", "work"})
_DEFAULT_ROUTES: dict[Kind, frozenset[str]] = {
    Kind.LYING_UNLOAD: frozenset({"unload"}),
    Kind.PARTIAL_UNLOAD: frozenset({"unload"}),
    Kind.STUCK_LOADED: frozenset({"health"}),
    Kind.REFUSE_LOAD: frozenset({"load"}),
    Kind.CRASH: frozenset({"load", "unload"}),
}


class BadFault(Exception):
    """The description of a fault is invalid; the message is one line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: the kind of fault.
        on: routes with the fault: "health", "load", "unload" (includes /free), "work".
        seconds: delay of "slow".
        mib: MiB that "partial-unload" frees.
        url: target of "redirect".
    """

    kind: Kind
    on: frozenset[str]
    seconds: float = 0.0
    mib: int = 0
    url: str = "http://127.0.0.1:1/"


@dataclass(slots=True)
class Faults:
    """The active faults, at most one of each kind."""

    by_kind: dict[Kind, Fault] = field(default_factory=dict)

    def set(self, fields: Mapping[str, Any]) -> None:
        """Set a fault described by ``{"kind": …, "on": …, …}``; kind "none" clears all. Raises BadFault."""
        if fields.get("kind") == "none":
            self.by_kind.clear()
            return
        fault = _fault(fields)
        self.by_kind[fault.kind] = fault

    def on(self, kind: Kind, route: str) -> Fault | None:
        """Return the fault of a kind if it is set for a route, or None."""
        fault = self.by_kind.get(kind)
        return fault if fault is not None and route in fault.on else None

    async def before(self, route: str) -> None:
        """Apply the faults that replace the work: raise the answer, or never return."""
        if self.on(Kind.HANG, route):
            await asyncio.Event().wait()
        if fault := self.on(Kind.REDIRECT, route):
            raise web.HTTPFound(fault.url)
        if self.on(Kind.ERROR_500, route) or self.on(Kind.REFUSE_LOAD, route):
            raise web.HTTPInternalServerError(text="fault error-500 or refuse-load")

    async def after(self, route: str, request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        """Apply the faults that change the answer, and return it."""
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
    """Parse ``kind`` or ``kind:key=value,key=value`` into fields."""
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
