"""Calls the API of Docker and Podman over a Unix socket, and reduces what they report to a fixed list of fields."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumand.root_helpers.trusted_files import table

ENGINE_SEC = 10.0
MAX_ANSWER_BYTES = 4 << 20
MAX_TEXT = 256
MAX_PORTS = 64
MAX_LOG_LINES = 5

LABELS = (
    "com.docker.compose.project",
    "com.docker.compose.service",
    "com.docker.compose.project.working_dir",
    "io.podman.compose.project",
    "PODMAN_SYSTEMD_UNIT",
)
"""The labels that are reported: where compose and quadlet note what started the container."""


class Refused(Exception):
    """A request that ends with an error; the message is one line.

    Attributes:
        reason: "denied", "not-found", "ambiguous", "failed", "timeout" or "unavailable".
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(" ".join(message.split())[: 4 * MAX_TEXT])
        self.reason = reason


class _EngineConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket of an engine."""

    def __init__(self, path: str, timeout_sec: float) -> None:
        super().__init__("engine", timeout=timeout_sec)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Engine:
    """One container engine, by its API socket.

    Attributes:
        name: "docker" or "podman".
        path: its API socket.
    """

    name: str
    path: str

    def call(self, method: str, url: str, timeout_sec: float = ENGINE_SEC, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """Return the body of a successful answer (2xx, or 304 for "already so"). Raises Refused."""
        connection = _EngineConnection(self.path, timeout_sec)
        try:
            connection.request(method, url)
            with connection.getresponse() as answer:
                body = _read_within(answer, limit, time.monotonic() + timeout_sec)
        except TimeoutError:
            raise Refused(f"{self.name} did not answer within {timeout_sec:g} s", "timeout") from None
        except (OSError, http.client.HTTPException) as error:
            raise Refused(self._unavailable(error), "unavailable") from None
        finally:
            connection.close()
        if answer.status in (200, 204, 304):
            return body
        reason = "not-found" if answer.status == 404 else "failed"
        raise Refused(_engine_error(body) or f"status {answer.status}", reason)

    def _unavailable(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{self.name} has no socket {self.path}"
        text = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return f"{self.name} does not answer on {self.path} ({text})"


def _read_within(answer: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    """Read a body in pieces, so that an engine that sends slowly cannot hold the connection for ever."""
    body = bytearray()
    while piece := answer.read1(65536):
        body += piece
        if len(body) > limit:
            raise http.client.HTTPException("too long")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _engine_error(body: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        return plain_text(table(json.loads(body)).get("message"))
    return ""


def plain_text(value: Any) -> str:
    """A text of an engine, limited in length and without control characters; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in value[:MAX_TEXT]).strip()


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 else 0


def described(engine: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The fixed list of fields that are reported of a container: nothing of its environment, command and mounts.

    Args:
        engine: name of the engine.
        answer: what the engine answers to an inspect, untrusted.
    """
    state, host, config = (table(answer.get(key)) for key in ("State", "HostConfig", "Config"))
    network = table(answer.get("NetworkSettings"))
    labels = table(config.get("Labels"))
    running = state.get("Running") is True
    return {
        "engine": engine,
        "id": plain_text(answer.get("Id")),
        "name": plain_text(answer.get("Name")).removeprefix("/"),
        "status": plain_text(state.get("Status")),
        "running": running,
        "pid": _number(state.get("Pid")) if running else 0,
        "exit_code": None if running else _number(state.get("ExitCode")),
        "oom_killed": state.get("OOMKilled") is True,
        "error": plain_text(state.get("Error")),
        "started_at": plain_text(state.get("StartedAt")),
        "restarts": _number(answer.get("RestartCount")),
        "restart_policy": plain_text(table(host.get("RestartPolicy")).get("Name")) or "no",
        "image": plain_text(config.get("Image")),
        "network_mode": plain_text(host.get("NetworkMode")),
        "addresses": _addresses(network),
        "ports": _ports(network),
        "labels": {key: plain_text(labels[key]) for key in LABELS if isinstance(labels.get(key), str)},
    }


def _addresses(network: Mapping[str, Any]) -> list[str]:
    networks = [table(one) for one in table(network.get("Networks")).values()]
    found = [plain_text(one.get(key)) for one in networks[:MAX_PORTS] for key in ("IPAddress", "GlobalIPv6Address")]
    return [address for address in found if address]


def _ports(network: Mapping[str, Any]) -> list[list[Any]]:
    """Published TCP ports as [address on the host, port on the host, port in the container]."""
    found = []
    for inside, bindings in list(table(network.get("Ports")).items())[:MAX_PORTS]:
        port, _, protocol = inside.partition("/")
        for binding in (bindings if isinstance(bindings, list) else [])[:MAX_PORTS]:
            outside = plain_text(table(binding).get("HostPort"))
            if protocol in ("", "tcp") and port.isdecimal() and outside.isdecimal():
                found.append([plain_text(table(binding).get("HostIp")), int(outside), int(port)])
    return found[:MAX_PORTS]


def log_lines(body: bytes) -> list[str]:
    """The last lines of a container's output, without Docker's frame headers where it has no terminal."""
    lines = [plain_text(line) for line in _unframed(body).decode(errors="replace").splitlines()]
    return [line for line in lines if line][-MAX_LOG_LINES:]


def _unframed(body: bytes) -> bytes:
    """Docker's stream format: frames of a byte for the stream, three zeros, and the length in four bytes."""
    text, rest = bytearray(), body
    while len(rest) >= 8 and rest[0] <= 2 and rest[1:4] == b"\0\0\0":
        (length,) = struct.unpack(">I", rest[4:8])
        text += rest[8 : 8 + length]
        rest = rest[8 + length :]
    return bytes(text) if text else body
