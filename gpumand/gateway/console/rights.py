"""Decides which clients may change something at the gateway's own address.

Everything there is a change by POST with a JSON body, which a page of another web site cannot send without asking the
gateway first, and the gateway does not answer that question.
"""

from __future__ import annotations

from gpumand.gateway import web
from gpumand.gateway.headers import Origin, is_same_origin
from gpumand.gateway.refusals import refused
from gpumand.gateway.requests import Client

JSON = "application/json"
OWN_SITES = ("", "same-origin", "none")
"""Values of Sec-Fetch-Site of requests that no other web site has caused; programs do not send the header."""

NEEDS_KEY = (
    "This needs an API key with evict = true, or a Unix socket and the user root. "
    "Create one: gpumanctl gateway key add NAME --evict"
)


def check_site(request: web.BaseRequest) -> None:
    """Refuse a request that a page of another web site has caused. Raises Refused."""
    site = request.headers.get("Sec-Fetch-Site", "").lower()
    if site not in OWN_SITES:
        raise refused(403, "foreign_site", "Pages of other web sites may not use this address. Open the page itself.")


def check_change(request: web.BaseRequest, origin: Origin) -> None:
    """Refuse a change that a browser was misled into. Raises Refused.

    Args:
        request: the request.
        origin: what forwarded headers say about the client.
    """
    check_site(request)
    # A site that may use the services (the key origins) may not administer them.
    value = request.headers.get("Origin")
    if value is not None and not is_same_origin(value, origin):
        raise refused(403, "foreign_origin", "Pages of other web sites may not use this address. Open the page itself.")
    if request.method != "POST":
        raise refused(405, "method_not_allowed", "This changes something: use POST.")
    if request.content_type != JSON:
        raise refused(415, "json_required", f"Send a JSON object, with Content-Type: {JSON}.")


def require_use(client: Client, consumer: str) -> None:
    """Refuse a client that may not use a consumer. One that may use it may load it: its requests do so too."""
    if client.consumers is not None and consumer not in client.consumers:
        raise refused(403, "consumer_not_allowed", f"The API key {client.name} may not use {consumer}.")


def require_administrator(client: Client) -> None:
    """Refuse a client that may only use services. Raises Refused."""
    if not client.may_evict:
        raise refused(403, "key_required", NEEDS_KEY)
