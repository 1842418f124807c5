"""What texts must look like: names of units, URLs, paths, pointers, headers, devices."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from gpumand.config.problems import shown
from gpumand.config.value_types import Refused

KEY = "{key}"
KEY_HEADER = f"Authorization: Bearer {KEY}"

CONSUMER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

UNIT_TYPES = ("service", "scope", "slice", "target")
"""Units that hold or group processes: the others are never what holds VRAM."""

OWN_UNIT = "gpumand.service"
MAX_UNIT_NAME = 255
MAX_PORT = 65535
_UNIT = re.compile(r"(?P<prefix>[A-Za-z0-9:_.\\-]+)(?P<instance>@[A-Za-z0-9:_.\\@-]*)?\.(?P<type>[a-z]+)")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Z]{1,16}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?\.?")
_DEVICE_INDEX = re.compile(r"0|[1-9][0-9]{0,3}")
# GPU-8-4-4-4-12, MIG-8-4-4-4-12, and before driver 470 MIG-GPU-<uuid>/<gi>/<ci>; other sources have words of their own.
_DEVICE_UUID = re.compile(r"[A-Z]{3,12}-[0-9A-Za-z][0-9A-Za-z/-]{0,95}")
_POINTER_ESCAPE = re.compile(r"~(?![01])")
_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_SELECTOR = re.compile(r"\[[^=\[\]]*=.+\]")


def unit_name(text: str) -> str:
    """A unit as systemd names it, with its type, and with an instance where it is of a template."""
    match = _UNIT.fullmatch(text)
    if match is None or match["type"] not in UNIT_TYPES:
        types = ", ".join(f".{one}" for one in UNIT_TYPES)
        hint = "" if "." in text else f"{text}.service"
        raise Refused(f"{shown(text)} is no name of a unit that holds processes ({types})", hint)
    if match["instance"] == "@":
        raise Refused(f"{shown(text)} is a template: name an instance, such as {match['prefix']}@one.{match['type']}")
    if len(text) > MAX_UNIT_NAME:
        raise Refused(f"is longer than the {MAX_UNIT_NAME} characters that systemd takes")
    if text == OWN_UNIT:
        raise Refused("is gpumand itself, which would stop itself to evict")
    return text


def url(text: str) -> str:
    """The base of a consumer's routes; a slash at its end is taken away, since every path begins with one."""
    if not text.isascii() or " " in text:
        raise Refused(f"{shown(text)} is no URL: spaces and letters beyond ASCII must be percent-encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Refused(f"{shown(text)} is no URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Refused("must begin with http:// or https:// and a host", "" if "//" in text else f"http://{text}")
    _refuse_extras(text, parts)
    if port == 0 or not _is_host(parts.hostname or ""):
        raise Refused(f"{shown(parts.netloc)} is no host with an optional port")
    return text.rstrip("/")


def _refuse_extras(text: str, parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise Refused("must not hold credentials (a route's headers are the place for them)")
    if "?" in text or "#" in text:
        raise Refused("must not hold a query or a fragment (a route's path may hold a query)")


def _is_host(host: str) -> bool:
    if _HOST_NAME.fullmatch(host):
        return True
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def route_path(text: str) -> str:
    """Path and query of a route."""
    if not text.startswith("/"):
        raise Refused(f'must begin with "/", unlike {shown(text)}', "" if "://" in text else f"/{text}")
    if text.startswith("//"):
        raise Refused('must not begin with "//": what follows would name another host')
    if not text.isascii() or " " in text or "\\" in text:
        raise Refused("must be percent-encoded: spaces, backslashes and letters beyond ASCII are not taken")
    if "#" in text:
        raise Refused("must not hold a fragment")
    return text


def pointer(text: str) -> str:
    """A JSON pointer (RFC 6901), with selectors; the syntax is told at HealthRoute."""
    if not text.startswith("/"):
        raise Refused(f'{shown(text)} is no JSON pointer: one begins with "/"', f"/{text}")
    if _POINTER_ESCAPE.search(text):
        raise Refused(f'{shown(text)} is no JSON pointer: "~" must be written ~0, and "/" in a name ~1')
    for token in text.split("/"):
        if token.startswith("[") and not _SELECTOR.fullmatch(token):
            raise Refused(f'{shown(text)}: {shown(token)} is no selector: one is written "[key=value]" or "[=value]"')
    return text


def listen_address(text: str) -> str:
    """An address and a port to listen at: no name, since what that stands for may change behind our back."""
    try:
        host, port = split_address(text)
    except ValueError:
        name, colon, number = text.rpartition(":")
        hint = f"127.0.0.1:{number}" if colon and name in ("localhost", "", "*") else ""
        raise Refused(f"{shown(text)} is no IP address with a port (127.0.0.1:9876, [::1]:9876)", hint) from None
    if not 1 <= port <= MAX_PORT:
        raise Refused(f"{port} is no port: they go from 1 to {MAX_PORT}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """Address and port of what ``listen_address`` took. Raises ValueError."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ipaddress.IPv6Address(host[1:-1]) if bracketed else ipaddress.IPv4Address(host)
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT))):
        raise ValueError(f"{port!r} is no port")
    return str(address), int(port)


def is_loopback(text: str) -> bool:
    """Whether only this host reaches what ``listen_address`` took."""
    return ipaddress.ip_address(split_address(text)[0]).is_loopback


def absolute_path(text: str) -> str:
    """A path of a folder."""
    if not text.startswith("/"):
        raise Refused(f'must be an absolute path: it begins with "/", unlike {shown(text)}')
    return text


def http_method(text: str) -> str:
    """An HTTP verb."""
    if not _METHOD.fullmatch(text):
        raise Refused(f"{shown(text)} is no HTTP method in capitals", text.upper() if text.isalpha() else "")
    return text


def header_name(text: str) -> str:
    """The name of an HTTP header."""
    if not _HEADER_NAME.fullmatch(text):
        raise Refused(f"{shown(text)} is no name of an HTTP header")
    return text


def key_header(text: str) -> str:
    """A header that carries a key: its name, a colon, its value."""
    name, colon, value = text.partition(":")
    if not colon or KEY not in value:
        raise Refused(f'{shown(text)} is no header with a key in it: one is written "X-Api-Key: {KEY}"')
    return f"{header_name(name.strip())}: {value.strip()}"


def metric_name(text: str) -> str:
    """The name of a Prometheus metric, without labels."""
    if not _METRIC.fullmatch(text):
        raise Refused(f"{shown(text)} is no name of a Prometheus metric")
    return text


def device(text: str) -> str:
    """A device by index or by the driver's UUID."""
    if not (_DEVICE_INDEX.fullmatch(text) or _DEVICE_UUID.fullmatch(text)):
        raise Refused(f'{shown(text)} is neither the index of a device ("0") nor a UUID ("GPU-…", "MIG-…")')
    return text
