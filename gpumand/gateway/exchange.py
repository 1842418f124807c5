"""One request of a client while it is handled, and the forms of the gateway's own answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpumand.gateway import web
from gpumand.gateway.connections import Connection
from gpumand.gateway.dialects import Api, Dialect, error_body, error_type, status_for
from gpumand.gateway.headers import REFUSED_HEADER, Origin
from gpumand.gateway.held_bodies import HeldBody
from gpumand.gateway.paths import Target
from gpumand.gateway.refusals import Refusal
from gpumand.gateway.requests import Client, Entry
from gpumand.gateway.router import Service

if TYPE_CHECKING:
    from gpumand.gateway.elsewhere import Elsewhere


@dataclass(slots=True)
class Exchange:
    """One request.

    Attributes:
        request: the request as aiohttp received it; its body is read only when it is needed.
        connection: the connection that it came in by.
        target: its checked target.
        origin: what forwarded headers say about the client.
        service: the service that it is for.
        entry: its entry in the table of requests.
        dialect: the form of its answers.
        body: what was read of its body already; None = nothing.
        is_foreign: whether a page of another web site sent it without the user's doing.
        listed_origin: the origin of the web page that sent it, if the configuration lists it; else "".
        elsewhere: another host that serves it; None = this one does.
        response: the answer, once it has begun.
    """

    request: web.BaseRequest
    connection: Connection
    target: Target
    origin: Origin
    service: Service
    entry: Entry
    dialect: Dialect
    body: HeldBody | None = None
    is_foreign: bool = False
    listed_origin: str = ""
    elsewhere: Elsewhere | None = None
    response: web.StreamResponse | None = None

    @property
    def client(self) -> Client:
        """The client as it is shown in lists. A reload may change its rights while the request waits."""
        return self.entry.client

    @property
    def label(self) -> str:
        """The request in one line, for the reason of a lease, which every user of the host may read."""
        return f"gateway: {self.client.name} {self.request.method} {self.target.shown}"


def accepts(request: web.BaseRequest, content_type: str) -> bool:
    """Whether the Accept header names a content type."""
    return content_type in request.headers.get("Accept", "").lower()


def refusal_response(refusal: Refusal, api: Api, method: str = "GET") -> web.Response:
    """The answer for a refusal, in the form of an API."""
    body = b"" if method == "HEAD" else error_body(api, refusal)
    response = web.Response(status=status_for(api, refusal), body=body, content_type=error_type(api), charset="utf-8")
    response.headers[REFUSED_HEADER] = "refused"
    response.headers["Server"] = "gpumand"
    response.headers["Cache-Control"] = "no-store"
    if refusal.status == 401:
        # A browser asks for user and password then; the password is the key.
        response.headers["WWW-Authenticate"] = 'Basic realm="gpumand", charset="UTF-8"'
    if refusal.retry_sec is not None:
        response.headers["Retry-After"] = str(refusal.retry_sec)
    elif refusal.is_final:
        # The client libraries of OpenAI and Anthropic repeat requests by themselves unless this header forbids it.
        response.headers["x-should-retry"] = "false"
    return response
