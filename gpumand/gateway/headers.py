"""Headers of forwarded requests and answers: those that concern one connection are removed, the rest passes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from multidict import CIMultiDict

VIA = "1.1 gpumand"
"""Value of the Via header that the gateway adds to requests and answers."""

REFUSED_HEADER = "x-gpumand"
"""Header of the gateway's own answers, which distinguishes them from those of the consumer."""

HOP_HEADER = "X-Gpumand-Hop"
"""Header of a request that the gateway of another host has passed on, with the name of that host. Such a request is
served here or refused, and never passed on to a third host."""

LIMIT_HEADER = "X-Gpumand-Limit"
"""Header of such a request for a client that may not see all consumers: the only one that it concerns. It takes rights
away and gives none, so that it is believed from every client."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that concern one connection (RFC 9110, section 7.6.1)."""

REPLACED = frozenset({"host", "expect", "via", "forwarded", "x-real-ip", HOP_HEADER.lower(), LIMIT_HEADER.lower()})
"""Request headers that the gateway sets itself or answers itself."""

WEBSOCKET_PREFIX = "sec-websocket-"
USER_PREFIX = "x-openwebui-"
"""Headers with the name, e-mail address and role of the user, which Open WebUI can be configured to send."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

RawHeaders = Iterable[tuple[bytes, bytes]]


class BadHeader(Exception):
    """A header of the request is refused; the message says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the headers of a forwarded request say about the client.

    Attributes:
        address: address of the client, "" on a Unix socket.
        host: the Host header of its request, "" without one.
        scheme: "http", or "https" if a trusted proxy says so.
    """

    address: str
    host: str
    scheme: str = "http"


def check_headers(raw: RawHeaders) -> None:
    """Check the names and values of all headers, and that Host is given at most once. Raises BadHeader."""
    # Debian's aiohttp passes on "X-A : a" with the space, which the next program may read as another header.
    hosts = 0
    for name, value in raw:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadHeader("a header has an invalid name or value")
        hosts += name.lower() == b"host"
    if hosts > 1:
        raise BadHeader("there is more than one Host header")


def request_headers(
    raw: RawHeaders, client: Origin, upstream_origin: str, *, forward_user: bool = False
) -> CIMultiDict[str]:
    """Headers of the request to the consumer.

    Args:
        raw: the headers as received, checked.
        client: the client; the headers X-Forwarded-* are set from it, whatever the client sent.
        upstream_origin: scheme and authority of the consumer, such as "http://127.0.0.1:8189". Programs compare the
            Origin header with Host, so an Origin that names the gateway's own address is replaced by this one.
        forward_user: keep the headers with which Open WebUI names its user.
    """
    pairs = list(_decoded(raw))
    dropped = HOP_BY_HOP | REPLACED | _connection_names(pairs)
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in pairs:
        # Servers with the interface of CGI, such as those of Python's WSGI, take X_Forwarded_For for X-Forwarded-For.
        lower = name.lower().replace("_", "-")
        if lower in dropped or lower.startswith(("x-forwarded-", WEBSOCKET_PREFIX)):
            continue
        if lower == "content-length" and "_" in name:
            continue
        if lower.startswith(USER_PREFIX) and not forward_user:
            continue
        is_own = lower in ("origin", "referer") and is_same_origin(value, client)
        kept.add(name, _with_origin(value, upstream_origin) if is_own else value)
    kept["Host"] = upstream_origin.partition("://")[2]
    kept["Via"] = VIA
    if client.address:
        kept["X-Forwarded-For"] = client.address
    if client.host:
        kept["X-Forwarded-Host"] = client.host
    kept["X-Forwarded-Proto"] = client.scheme
    return kept


def response_headers(raw: RawHeaders, client: Origin, upstream_origin: str) -> CIMultiDict[str]:
    """Headers of the answer to the client. A Location that names the consumer's own address gets the client's."""
    pairs = list(_decoded(raw))
    dropped = HOP_BY_HOP | _connection_names(pairs)
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in pairs:
        lower = name.lower()
        if lower in dropped or lower.startswith(WEBSOCKET_PREFIX):
            continue
        names_upstream = lower == "location" and client.host and _origin_of(value) == upstream_origin.lower()
        kept.add(name, _with_origin(value, f"{client.scheme}://{client.host}") if names_upstream else value)
    kept.add("Via", VIA)
    # Otherwise aiohttp would add one that names its version.
    kept.setdefault("Server", "gpumand")
    return kept


def is_same_origin(value: str, client: Origin) -> bool:
    """Whether an Origin or Referer header names the address that the client uses for the gateway."""
    return bool(client.host) and _origin_of(value) == f"{client.scheme}://{client.host}".lower()


def passed_gateway(raw: RawHeaders) -> bool:
    """Whether a request has already passed a gateway: the endpoint of a consumer then names the gateway itself."""
    return any(name.lower() == b"via" and b"gpumand" in value for name, value in raw)


def is_from_fleet(raw: RawHeaders) -> bool:
    """Whether the gateway of another host has passed a request on."""
    return any(name.lower() == HOP_HEADER.lower().encode("ascii") for name, _ in raw)


def _origin_of(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.netloc else ""


def _with_origin(value: str, origin: str) -> str:
    parts = urlsplit(value)
    return origin + value[len(f"{parts.scheme}://{parts.netloc}") :]


def _connection_names(pairs: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Names of the headers that the Connection headers declare as hop-by-hop."""
    values = [value for name, value in pairs if name.lower() == "connection"]
    # Content-Length frames the body: a peer must not be able to remove it.
    return frozenset(one.strip().lower() for value in values for one in value.split(",")) - {"content-length"}


def _decoded(raw: RawHeaders) -> Iterator[tuple[str, str]]:
    return ((name.decode("ascii"), _text(value)) for name, value in raw)


def _text(value: bytes) -> str:
    # Header values should be ASCII; old programs send Latin-1, which the next hop gets as UTF-8.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
