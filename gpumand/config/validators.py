"""Checks of the syntax of strings: unit names, URLs, paths, JSON pointers, headers, devices.

Each function returns the string, normalised where it says so, or raises InvalidValue.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from gpumand.config.problems import quoted
from gpumand.config.value_types import InvalidValue
from gpumand.domain.socket_url import split_socket_url

KEY = "{key}"
KEY_HEADER = f"Authorization: Bearer {KEY}"

CONSUMER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

UNIT_TYPES = ("service", "scope", "slice", "target")
"""Types of units that contain processes; units of other types cannot hold VRAM."""

OWN_UNIT = "gpumand.service"
MAX_UNIT_NAME = 255
MAX_SOCKET_PATH = 107
MAX_PORT = 65535
_UNIT = re.compile(r"(?P<prefix>[A-Za-z0-9:_.\\-]+)(?P<instance>@[A-Za-z0-9:_.\\@-]*)?\.(?P<type>[a-z]+)")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MESSAGE_HEADERS = ("content-length", "transfer-encoding", "upgrade")
"""Headers that say where a message ends or what follows it. The program that sends it sets them."""

_METHOD = re.compile(r"[A-Z]{1,16}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?\.?")
_DEVICE_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
# NVIDIA: GPU-8-4-4-4-12, MIG-8-4-4-4-12, and before driver 470 MIG-GPU-<uuid>/<gi>/<ci>. Other sources have other
# prefixes.
_DEVICE_UUID = re.compile(r"[A-Z]{3,12}-[0-9A-Za-z][0-9A-Za-z/-]{0,95}")
_PCI_ADDRESS = re.compile(r"(PCI-)?((?:[0-9A-Fa-f]{4}|[0-9A-Fa-f]{8}):[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])")
_POINTER_ESCAPE = re.compile(r"~(?![01])")
_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_SOCKET = re.compile(r"(?:https?\+unix:/{0,2}|https://unix:|unix:(?://)?|http://unix(?=/)|(?=/))(?P<path>/[^ ]*)")
"""Usual spellings of a Unix socket that are not the one of this configuration."""

_SELECTOR = re.compile(r"\[[^=\[\]]*=.+\]")


def unit_name(text: str) -> str:
    """Check the name of a systemd unit: with its type suffix, and with an instance name if it is a template."""
    match = _UNIT.fullmatch(text)
    if match is None or match["type"] not in UNIT_TYPES:
        types = ", ".join(f".{one}" for one in UNIT_TYPES)
        hint = "" if "." in text else f"{text}.service"
        raise InvalidValue(f"{quoted(text)} is not a name of a unit that runs processes ({types})", hint)
    if match["instance"] == "@":
        raise InvalidValue(
            f"{quoted(text)} is a template: name an instance, such as {match['prefix']}@one.{match['type']}"
        )
    if len(text) > MAX_UNIT_NAME:
        raise InvalidValue(f"is longer than {MAX_UNIT_NAME} characters, the maximum of systemd")
    if text == OWN_UNIT:
        raise InvalidValue("is gpumand's own unit: evicting the consumer would stop gpumand")
    return text


def url(text: str) -> str:
    """Check the base URL of a consumer's routes; trailing slashes are removed, because every path starts with one."""
    if match := _SOCKET.match(text):
        socket = match["path"]
        raise InvalidValue(
            "must start with http:// or https://; a Unix socket is http://unix:/run/name.sock", f"http://unix:{socket}"
        )
    if not text.isascii() or " " in text:
        raise InvalidValue(f"{quoted(text)} is not a URL: spaces and non-ASCII characters must be percent-encoded")
    if (socket := split_socket_url(text)) is not None:
        return _socket_url(text, *socket)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidValue(f"{quoted(text)} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise InvalidValue(
            "must start with http:// or https:// followed by a host", "" if "//" in text else f"http://{text}"
        )
    _refuse_url_extras(text, parts)
    if port == 0 or not _is_host(parts.hostname or ""):
        raise InvalidValue(f"{quoted(parts.netloc)} is not a host with an optional port")
    return text.rstrip("/")


def _socket_url(text: str, socket: str, base: str) -> str:
    if not socket.startswith("/") or socket.endswith("/"):
        raise InvalidValue(
            f"{quoted(text)} does not name a socket: write its absolute path, http://unix:/run/name.sock"
        )
    if len(socket) > MAX_SOCKET_PATH:
        raise InvalidValue(f"names a socket whose path is longer than {MAX_SOCKET_PATH} bytes, the maximum of Linux")
    if base and not base.startswith("/"):
        raise InvalidValue(f'{quoted(text)}: what follows the socket must be a path that starts with "/"')
    _refuse_url_extras(text, urlsplit(f"http://localhost{base}"))
    return text.rstrip("/")


def _refuse_url_extras(text: str, parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise InvalidValue("must not contain credentials: put them into headers or key_file")
    if "?" in text or "#" in text:
        raise InvalidValue("must not contain a query or a fragment: put a query into the path of the route")


def _is_host(host: str) -> bool:
    if _HOST_NAME.fullmatch(host):
        return True
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def route_path(text: str) -> str:
    """Check the path of a route, with an optional query."""
    if not text.startswith("/"):
        raise InvalidValue(f'must start with "/", not {quoted(text)}', "" if "://" in text else f"/{text}")
    if text.startswith("//"):
        raise InvalidValue('must not start with "//", which would name another host')
    if not text.isascii() or " " in text or "\\" in text:
        raise InvalidValue("must be percent-encoded: spaces, backslashes and non-ASCII characters are refused")
    if "#" in text:
        raise InvalidValue("must not contain a fragment (#)")
    return text


def pointer(text: str) -> str:
    """Check a JSON pointer (RFC 6901) with selectors; ``HealthRoute`` documents the syntax."""
    if not text.startswith("/"):
        raise InvalidValue(f'{quoted(text)} is not a JSON pointer: it must start with "/"', f"/{text}")
    if _POINTER_ESCAPE.search(text):
        raise InvalidValue(f'{quoted(text)} is not a JSON pointer: write "~" as ~0, and "/" within a name as ~1')
    for token in text.split("/"):
        if token.startswith("[") and not _SELECTOR.fullmatch(token):
            raise InvalidValue(f'{quoted(text)}: {quoted(token)} is not a selector: write "[key=value]" or "[=value]"')
    return text


def listen_address(text: str) -> str:
    """Check an IP address with a port to listen at, and return it in canonical form."""
    # Host names are refused: what they resolve to can change later, from loopback to an address that others reach.
    try:
        host, port = split_address(text)
    except ValueError:
        name, colon, number = text.rpartition(":")
        hint = f"127.0.0.1:{number}" if colon and name in ("localhost", "", "*") else ""
        raise InvalidValue(
            f"{quoted(text)} is not an IP address with a port: write 127.0.0.1:9876 or [::1]:9876", hint
        ) from None
    if not 1 <= port <= MAX_PORT:
        raise InvalidValue(f"{port} is not a port: use a number from 1 to {MAX_PORT}")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """Split an IP address with a port, such as ``[::1]:9876``. Raises ValueError."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ipaddress.IPv6Address(host[1:-1]) if bracketed else ipaddress.IPv4Address(host)
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT))):
        raise ValueError(f"{port!r} is not a port")
    return str(address), int(port)


def is_loopback(text: str) -> bool:
    """Return True if only this host can reach an address that ``listen_address`` accepted."""
    return ipaddress.ip_address(split_address(text)[0]).is_loopback


def absolute_path(text: str) -> str:
    """Check an absolute path."""
    if not text.startswith("/"):
        raise InvalidValue(f'must be an absolute path, which starts with "/", not {quoted(text)}')
    return text


def http_method(text: str) -> str:
    """Check an HTTP method."""
    if not _METHOD.fullmatch(text):
        raise InvalidValue(f"{quoted(text)} is not an HTTP method in capitals", text.upper() if text.isalpha() else "")
    return text


def header_name(text: str) -> str:
    """Check the name of an HTTP header."""
    if not _HEADER_NAME.fullmatch(text):
        raise InvalidValue(f"{quoted(text)} is not a name of an HTTP header")
    if text.lower() in _MESSAGE_HEADERS:
        raise InvalidValue(f"{text} is set by the program that sends the request, and cannot be configured")
    return text


def key_header(text: str) -> str:
    """Check a header that carries a key: its name, a colon, and a value that contains ``{key}``."""
    name, colon, value = text.partition(":")
    if not colon or KEY not in value:
        raise InvalidValue(f'{quoted(text)} is not a header with a key: write, for example, "X-Api-Key: {KEY}"')
    return f"{header_name(name.strip())}: {value.strip()}"


def metric_name(text: str) -> str:
    """Check the name of a Prometheus metric, without labels."""
    if not _METRIC.fullmatch(text):
        raise InvalidValue(f"{quoted(text)} is not a name of a Prometheus metric")
    return text


def device(text: str) -> str:
    """Check a device: its index, its UUID as reported by the driver, or its PCI address."""
    if not (_DEVICE_INDEX.fullmatch(text) or _is_lasting_name(text)):
        raise InvalidValue(
            f'{quoted(text)} is neither the index of a device ("0") nor a UUID ("GPU-…", "MIG-…", "AMD-…") nor a PCI '
            'address ("0000:03:00.0")'
        )
    return _lower_address(text)


def lasting_device(text: str) -> str:
    """Check a device's UUID or PCI address; an index is refused, since it may become that of another device."""
    if not _is_lasting_name(text):
        raise InvalidValue(
            f'{quoted(text)} is neither a UUID ("GPU-…", "AMD-…") nor a PCI address ("0000:03:00.0"); gpumanctl status '
            "shows both"
        )
    return _lower_address(text)


def _is_lasting_name(text: str) -> bool:
    return bool(_DEVICE_UUID.fullmatch(text) or _PCI_ADDRESS.fullmatch(text))


def _lower_address(text: str) -> str:
    """A PCI address as sysfs writes it; any other name unchanged."""
    found = _PCI_ADDRESS.fullmatch(text)
    return f"{found[1] or ''}{found[2].lower()}" if found else text
