"""Requests to the JSON API of ``gpumand-gateway``, at its own address."""

from __future__ import annotations

import json
import os
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import GlobalOptions

ADDRESS_VARIABLE = "GPUMAND_GATEWAY"
SYSTEM_SOCKET = "unix:/run/gpumand-gateway.sock"
SOCKET_PREFIX = "unix:"
API = "/gateway/v1/"
TIMEOUT_SEC = 10.0
MAX_ANSWER_BYTES = 16 << 20

Fields = dict[str, Any]


class GatewayApi:
    """The API of one gateway. Its calls block.

    Args:
        address: ``unix:PATH`` or ``HOST:PORT``.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, name: str) -> Fields:
        """Return the document with this name. Raises Failure."""
        return self._ask("GET", name)

    def post(self, name: str) -> Fields:
        """Change something; an empty JSON object is sent. Raises Failure."""
        return self._ask("POST", name)

    def _ask(self, method: str, name: str) -> Fields:
        connection = _connection(self.address)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            connection.request(method, API + name, b"{}" if method == "POST" else None, headers)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER_BYTES)
        except (OSError, HTTPException) as error:
            raise _unreachable(self.address, error) from None
        finally:
            connection.close()
        return _document(answer.status, body, self.address)


def gateway_of(options: GlobalOptions, address: str) -> GatewayApi:
    """Return the API of the gateway at an address; "" = the system's gateway, or with ``--user`` that of the user."""
    place = os.environ.get("XDG_RUNTIME_DIR", "") if options.user else ""
    default = f"{SOCKET_PREFIX}{place}/gpumand-gateway.sock" if place else SYSTEM_SOCKET
    return GatewayApi(address or os.environ.get(ADDRESS_VARIABLE, "") or default)


class UnixConnection(HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str, timeout_sec: float = TIMEOUT_SEC) -> None:
        super().__init__("localhost", timeout=timeout_sec)
        self._path, self._timeout_sec = path, timeout_sec

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_sec)
        self.sock.connect(self._path)


def _connection(address: str) -> HTTPConnection:
    if address.startswith(SOCKET_PREFIX):
        return UnixConnection(address.removeprefix(SOCKET_PREFIX))
    host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        text = f"{address} is not the address of a gateway. Give HOST:PORT, such as 127.0.0.1:8770, or unix:PATH"
        raise Failure(ExitCode.USAGE, text)
    return HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_SEC)


def _unreachable(address: str, error: Exception) -> Failure:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = f"the gateway does not answer at {address} ({reason}). Start it with: systemctl start gpumand-gateway"
    return Failure(ExitCode.NOT_RUNNING, text)


def _document(status: int, body: bytes, address: str) -> Fields:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if status == 200 and isinstance(found, dict):
        return found
    refusal = found.get("error") if isinstance(found, dict) else None
    message = refusal.get("message") if isinstance(refusal, dict) else None
    if isinstance(message, str) and message:
        code = ExitCode.NO_SUCH if status == 404 else ExitCode.FAILURE
        raise Failure(code, message.rstrip("."))
    text = f"{address} answered with status {status}, and not as a gateway does. Check the address"
    raise Failure(ExitCode.FAILURE, text)
