"""Answers for pages of other web sites (CORS), only for the origins of the configuration and never for all."""

from __future__ import annotations

import re
from collections.abc import Collection

from multidict import CIMultiDict

from gpumand.gateway import web

MAX_AGE_SEC = 600

_TOKENS = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\s*,\s*[A-Za-z0-9_-]{1,64}){0,63}")


def listed_origin(request: web.BaseRequest, origins: Collection[str]) -> str:
    """The Origin header of a request, if the configuration lists it; else ""."""
    origin = request.headers.get("Origin", "")
    return origin if origin and origin.lower() in origins else ""


def preflight(request: web.BaseRequest, origins: Collection[str]) -> web.Response | None:
    """The answer to the question of a browser whether a page may send a request; None for other requests."""
    origin, method = listed_origin(request, origins), request.headers.get("Access-Control-Request-Method", "")
    if request.method != "OPTIONS" or not origin or not _TOKENS.fullmatch(method):
        return None
    response = web.Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = method
    asked = request.headers.get("Access-Control-Request-Headers", "")
    if _TOKENS.fullmatch(asked):
        response.headers["Access-Control-Allow-Headers"] = asked
    response.headers["Access-Control-Max-Age"] = str(MAX_AGE_SEC)
    allow(response.headers, origin)
    return response


def allow(headers: CIMultiDict[str], origin: str) -> None:
    """Let the page of an origin read an answer; does nothing for ""."""
    if not origin:
        return
    headers.popall("Access-Control-Allow-Origin", None)
    headers["Access-Control-Allow-Origin"] = origin
    headers.add("Vary", "Origin")
