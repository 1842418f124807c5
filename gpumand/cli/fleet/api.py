"""Short calls of the local API of ``gpumand-fleet``, and its errors by who must act."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_api import UnixConnection
from gpumand.cli.options import GlobalOptions
from gpumand.domain.errors import ERROR_PREFIX
from gpumand.fleet.json_fields import MAX_MESSAGE, refuse_constant

ADDRESS_VARIABLE = "GPUMAND_FLEET"
SYSTEM_SOCKET = "/run/gpumand-fleet/fleet.sock"
CALL_SEC = 15.0
EXTRA_SEC = 10.0
"""Time beyond a call's own waiting time."""

MAX_ANSWER_BYTES = 32 << 20
"""More than the rows and leases of as many hosts as the agent knows."""

Fields = dict[str, Any]

_NO_SUCH = tuple(ERROR_PREFIX + name for name in ("NoSuchConsumer", "NoSuchHost"))
_HINTS = {
    ERROR_PREFIX + "NoSuchConsumer": "; list them with: gpumanctl --fleet",
    ERROR_PREFIX + "NoSuchHost": "; list the hosts with: gpumanctl --fleet",
    ERROR_PREFIX + "TimedOut": "; wait longer with --timeout 5min or --wait",
}


def socket_path(options: GlobalOptions) -> str:
    """The socket of the agent on this host."""
    place = os.environ.get("XDG_RUNTIME_DIR", "") if options.user else ""
    return os.environ.get(ADDRESS_VARIABLE, "") or (f"{place}/gpumand-fleet/fleet.sock" if place else SYSTEM_SOCKET)


class FleetApi:
    """The API. Its calls block.

    Args:
        path: the socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def hosts(self) -> Fields:
        """All hosts. Raises Failure."""
        return self._ask("GET", "/v1/hosts", None, CALL_SEC)

    def post(self, name: str, body: Mapping[str, Any], wait_sec: float = 0.0) -> Fields:
        """Call a method with a JSON object. Raises Failure."""
        return self._ask("POST", f"/v1/{name}", json.dumps(body).encode(), CALL_SEC + wait_sec + EXTRA_SEC)

    def _ask(self, method: str, path: str, body: bytes | None, limit_sec: float) -> Fields:
        connection = UnixConnection(self._path, limit_sec)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read(MAX_ANSWER_BYTES)
        except (OSError, HTTPException) as error:
            raise unreachable(self._path, error) from None
        finally:
            connection.close()
        return _document(answer.status, data)


def unreachable(path: str, error: Exception) -> Failure:
    """The failure when the agent of this host does not answer."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        start = "Start it: systemctl start gpumand-fleet. If this host is in no fleet yet: gpumanctl fleet --help"
        return Failure(ExitCode.NOT_RUNNING, f"gpumand-fleet is not running ({path}). {start}")
    if isinstance(error, PermissionError):
        return Failure(ExitCode.FAILURE, f"permission denied: this user may not use {path}. Use sudo")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    log = "check its log: journalctl -u gpumand-fleet"
    return Failure(ExitCode.FAILURE, f"gpumand-fleet does not answer at {path} ({reason}); {log}")


def _document(status: int, data: bytes) -> Fields:
    try:
        found = json.loads(data, parse_constant=refuse_constant)  # --json would print them
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        text = (
            f"gpumand-fleet answered with status {status}, and not in JSON. Check that it has the version of gpumanctl"
        )
        raise Failure(ExitCode.FAILURE, text)
    if status != 200:
        raise refusal(found)
    return found


def refusal(answer: Mapping[str, Any]) -> Failure:
    """The failure for an error of the API, with its advice."""
    name = str(answer.get("error", ""))[:256]
    message = str(answer.get("message") or name or "no reason is given")[:MAX_MESSAGE]
    hint = "" if "did you mean" in message or "--" in message else _HINTS.get(name, "")
    text = message.rstrip(".") + hint if hint else message
    return Failure(ExitCode.NO_SUCH if name in _NO_SUCH else ExitCode.FAILURE, text)
