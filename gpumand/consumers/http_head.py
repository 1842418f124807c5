"""The head of a request: where it goes, its target and its headers, made from a URL."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import SplitResult, quote, unquote, urlsplit

import h11

from gpumand.consumers.http_request import Request
from gpumand.version import VERSION

DEFAULT_HEADERS = (
    ("User-Agent", f"gpumand/{VERSION}"),
    ("Accept", "application/json, */*"),
    ("Accept-Encoding", "identity"),
)

_TARGET_CHARACTERS = "%/:?#[]@!$&'()*+,;=~-._"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def address_of(url: SplitResult) -> tuple[str, int]:
    """Host and port of a URL. Raises ValueError."""
    host = url.hostname or ""
    if not host:
        raise ValueError("the URL has no host")
    return (host if host.isascii() else host.encode("idna").decode()), url.port or _DEFAULT_PORTS[url.scheme]


def head_of(request: Request, body: bytes) -> h11.Request:
    """Return the head of a request.

    Raises:
        ValueError: the URL is not usable, or a header or the method contains what HTTP does not allow. The message does
            not contain the value of a header, which may be a key.
    """
    url = urlsplit(request.url)
    headers = {name.lower(): (name, value) for name, value in _own_headers(request, url, body)}
    headers |= {name.lower(): (name, value) for name, value in request.headers}
    try:
        # A key that was copied or read from a file often ends with a blank or a newline, which h11 refuses.
        encoded = [(name.encode(), value.strip().encode()) for name, value in headers.values()]
        return h11.Request(method=request.method, target=_target(url), headers=encoded)
    except (h11.LocalProtocolError, UnicodeError):
        name = next((name for name, value in request.headers if not _is_header(name, value)), "")
        place = f"the header {name!r}" if name else "the URL or the method"
        raise ValueError(f"{place} has characters that HTTP does not allow") from None


def _is_header(name: str, value: str) -> bool:
    try:
        h11.Request(method="GET", target="/", headers=[(b"Host", b"x"), (name.encode(), value.strip().encode())])
    except (h11.LocalProtocolError, UnicodeError):
        return False
    return True


def _own_headers(request: Request, url: SplitResult, body: bytes) -> list[tuple[str, str]]:
    headers = [("Host", _host(url)), *DEFAULT_HEADERS]
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers.append(("Authorization", f"Basic {b64encode(user.encode()).decode()}"))
    if request.json is not None:
        headers.append(("Content-Type", "application/json"))
    # Some servers refuse a body of unknown length for methods that usually have one.
    if body or request.method not in ("GET", "HEAD"):
        headers.append(("Content-Length", str(len(body))))
    return headers


def _host(url: SplitResult) -> str:
    host, port = address_of(url)
    name = f"[{host}]" if ":" in host else host
    return name if port == _DEFAULT_PORTS[url.scheme] else f"{name}:{port}"


def _target(url: SplitResult) -> str:
    """Path and query; characters that a URL must not contain are escaped, escapes stay as they are."""
    path = quote(url.path or "/", safe=_TARGET_CHARACTERS)
    return f"{path}?{quote(url.query, safe=_TARGET_CHARACTERS)}" if url.query else path
