"""Decides which clients may use the gateway, and names them.

A web site can make the browser of a user send requests to this host. Two checks prevent that: the Host header must name
this host, which a site that points its own name at 127.0.0.1 cannot achieve, and the Origin header must be that of the
service itself or be listed.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import HttpVersion11

from gpumand.gateway import web
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.connections import Connection
from gpumand.gateway.headers import LIMIT_HEADER, Origin, is_same_origin
from gpumand.gateway.keys import PLACEHOLDER, find, presented
from gpumand.gateway.refusals import Refused, refused
from gpumand.gateway.requests import Client


class Access(Protocol):
    """Admits or refuses a request before its consumer is known."""

    def admit(self, request: web.BaseRequest, connection: Connection) -> tuple[Client, Origin]:
        """The client of a request, and what forwarded headers say about it. Raises Refused."""


class KeyedAccess:
    """Access by API keys; programs of this host need none unless the configuration requires one.

    Args:
        settings: returns the configuration that is in force.
    """

    def __init__(self, settings: Callable[[], GatewaySettings]) -> None:
        self._settings = settings
        self._own_name = socket.gethostname().lower()
        # The kernel names the user on a Unix socket. An address on the loopback interface does not name a user.
        self._administrators = frozenset({"uid 0", f"uid {os.geteuid()}"})

    def admit(self, request: web.BaseRequest, connection: Connection) -> tuple[Client, Origin]:
        """See Access."""
        settings, peer = self._settings(), connection.peer
        origin = self._origin(request, settings, "" if connection.is_unix else peer)
        names_host = _is_without_host(request) or self._names_this_host(origin.host, settings)
        if connection.is_loopback and not names_host:
            raise refused(421, "wrong_host", "The Host header names another host. Add its name to host_names.")
        self._check_origin(request, origin, settings)
        is_local = connection.is_unix or connection.is_loopback
        is_local = is_local and origin.address in ("", peer)
        client = Client(peer or "unknown", is_local=is_local, may_evict=peer in self._administrators)
        if not (settings.keys or connection.is_unix or connection.is_loopback):
            # A connection from the time when the configuration had keys and allowed other hosts.
            raise refused(
                401, "key_missing", "Other hosts need an API key, and the configuration of the gateway has none."
            )
        return _limited(request, self._with_key(request, client, settings)), origin

    def _with_key(self, request: web.BaseRequest, client: Client, settings: GatewaySettings) -> Client:
        """The client by its key. Raises Refused."""
        if not settings.keys:
            # A header for the service itself: without keys of the gateway, it passes.
            return client
        secret = presented(request.headers)
        found = find(settings.keys, secret) if secret else None
        if found is None and secret in ("", PLACEHOLDER):
            # The kernel names administrators, who use gpumanctl gateway.
            if client.may_evict or (client.is_local and not settings.require_key):
                return client
            raise refused(401, "key_missing", "An API key is required: send it as a Bearer token or as x-api-key.")
        if found is None:
            raise refused(401, "key_wrong", "This API key is not known. Create one: gpumanctl gateway key add NAME")
        return replace(
            client,
            name=found.name,
            priority=found.priority,
            consumers=found.consumers,
            may_evict=client.may_evict or found.evict,
            is_interactive=found.interactive,
            has_key=True,
        )

    def _origin(self, request: web.BaseRequest, settings: GatewaySettings, peer: str) -> Origin:
        host = request.headers.get("Host", "")
        if not peer or peer not in settings.trusted_proxies:
            return Origin(peer, host)
        # The last address is the one that the trusted proxy has added; the client may have sent the others.
        address = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        scheme = request.headers.get("X-Forwarded-Proto", "").strip().lower()
        return Origin(
            address if _is_address(address) else peer,
            request.headers.get("X-Forwarded-Host", "").strip() or host,
            scheme if scheme in ("http", "https") else "http",
        )

    def _names_this_host(self, host: str, settings: GatewaySettings) -> bool:
        name = _host_of(host)
        if name == "localhost" or name.endswith(".localhost") or name == self._own_name or name in settings.host_names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _check_origin(self, request: web.BaseRequest, client: Origin, settings: GatewaySettings) -> None:
        value = request.headers.get("Origin")
        if value is None or value.lower() in settings.origins or is_same_origin(value, client):
            return
        raise refused(403, "foreign_origin", "Pages of this web site may not use the gateway. Add it to origins.")


def _limited(request: web.BaseRequest, client: Client) -> Client:
    """A client whose request concerns one consumer only, as the gateway of another host says for its own client."""
    consumer = request.headers.get(LIMIT_HEADER)
    if consumer is None:
        return client
    only = frozenset({consumer})
    return replace(client, consumers=only if client.consumers is None else only & client.consumers)


def _is_without_host(request: web.BaseRequest) -> bool:
    """Whether a request has no Host header, as HTTP/1.0 permits. Browsers send one with every request."""
    return request.version < HttpVersion11 and not {"Host", "X-Forwarded-Host"} & request.headers.keys()


def _host_of(host: str) -> str:
    """The name or address in a Host header, without the port; "" if it is not valid."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".") if "@" not in host and "/" not in host else ""
    except ValueError:
        return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_from_foreign_site(headers: Mapping[str, str], origins: Collection[str]) -> bool:
    """Whether a page of another web site has a browser send a request: an image, a frame, or a script's GET.

    Browsers send no Origin header with those, and say by Sec-Fetch-Site where they come from. A link that a user
    follows is none of them: its page is a document of its own.

    Args:
        headers: the headers of the request.
        origins: the web sites that the configuration lists.
    """
    if headers.get("Sec-Fetch-Site", "").lower() != "cross-site" or "Origin" in headers:
        return False
    if headers.get("Sec-Fetch-Dest", "").lower() == "document":
        return False
    try:
        page = urlsplit(headers.get("Referer", ""))
    except ValueError:
        return True
    return f"{page.scheme}://{page.netloc}".lower() not in origins


def foreign_site() -> Refused:
    """The refusal of a request that a page of another web site sends, and that would load a model."""
    text = "Pages of other web sites may not load models. Open the address itself, or add the site to origins."
    return refused(403, "foreign_site", text)
