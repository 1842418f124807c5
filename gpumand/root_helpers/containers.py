"""Starts, stops and inspects the containers of the configuration; the daemon calls it over a Unix socket.

Access to the socket of Docker or Podman is access as root: a client can start a container that mounts the whole host.
So the daemon never opens it. This program does, and accepts a few operations on containers that are named in a
configuration file which root owns and only root can write, as ``unit_allowed`` does for units. It cannot create a
container, run a command in one, or report its environment and mounts.

A request is one line of JSON, ``{"do": "inspect", "container": "comfyui", "timeout_sec": 10}``, and so is the answer:
``{"ok": {...}}``, or ``{"error": "...", "reason": "..."}``. A connection carries one request. systemd starts the
program for the first connection, and it ends when it has been idle.

With ``--user`` it serves the daemon of a user with the engines and the configuration of that user.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pwd
import re
import socket
import struct
import sys
import threading
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gpumand.root_helpers.container_engine import ENGINE_SEC, MAX_LOG_LINES, Engine, Refused, described, log_lines
from gpumand.root_helpers.container_engine import plain_text as text_of
from gpumand.root_helpers.renamed_containers import SERVICE_LABEL, find_renamed
from gpumand.root_helpers.trusted_files import DEFAULT_FILE, configuration_files, read_trusted, table

DAEMON_USER = "_gpumand"
SYSTEM_ENGINES = (("docker", "/run/docker.sock"), ("podman", "/run/podman/podman.sock"))
USER_ENGINES = (("docker", "docker.sock"), ("podman", "podman/podman.sock"))
"""Sockets of rootless engines, below the runtime directory of the user."""

ENGINES_VARIABLE = "GPUMAND_ENGINES"
"""Further engine sockets, set in a drop-in of the service: ``podman=/run/user/1000/podman/podman.sock``."""

FIRST_FD = 3
IDLE_SEC = 30.0
STALE_SEC = 15.0
"""Age at which the program ends if an engine's socket was missing: the socket of an engine that was started or
installed since then is not visible in this process's mount namespace."""

REQUEST_SEC = 5.0
FIRST_OUTPUT_SEC = 0.5
"""Seconds by which a container may write before the time that its engine notes as its start."""

REMEMBER_SEC = 60.0
"""Seconds for which only the engine that had a container is asked for it."""

MAX_TIMEOUT_SEC = 3600.0
MAX_CONNECTIONS = 16
MAX_CONTAINERS = 256
MAX_REQUEST_BYTES = 4096
MAX_LOG_BYTES = 256 << 10
MIN_ID_PREFIX = 12

REFERENCE = re.compile(r"(?:(docker|podman):)?([A-Za-z0-9][A-Za-z0-9_.-]{0,253})")
CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def configured_containers(files: Iterable[Path], owner_uid: int = 0) -> list[str]:
    """The containers that consumers name, as written in the configuration, in order and without duplicates.

    Args:
        files: configuration files; one that is not TOML, or that users other than the owner can write, counts as empty.
        owner_uid: user id that must own a file for it to count.
    """
    found = dict.fromkeys(name for file in files for name in _containers_of(file, owner_uid))
    return list(found)[:MAX_CONTAINERS]


def _containers_of(file: Path, owner_uid: int) -> Iterator[str]:
    try:
        document = tomllib.loads(read_trusted(file, owner_uid))
    except (OSError, ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return
    for consumer in table(document.get("consumers")).values():
        name = table(consumer).get("container")
        if isinstance(name, str) and REFERENCE.fullmatch(name):
            yield name


class Operations:
    """The operations that a client may request.

    Args:
        files: returns the configuration files.
        engines: the engines, in the order in which they are asked.
        owner_uid: user id that must own a configuration file.
    """

    def __init__(self, files: Callable[[], Iterable[Path]], engines: Sequence[Engine], owner_uid: int = 0) -> None:
        self._files = files
        self._engines = engines
        self._owner_uid = owner_uid
        self._found: dict[str, tuple[Engine, float]] = {}
        self.is_stale = False

    def carry_out(self, request: Any) -> Any:
        """Return the result of a request. Raises Refused."""
        fields = table(request)
        operation, name = fields.get("do"), fields.get("container")
        configured = configured_containers(self._files(), self._owner_uid)
        if operation == "list":
            return self._list(configured)
        if not isinstance(name, str) or name not in configured:
            shown = text_of(name) or "?"
            raise Refused(f"container {shown} is not named in a configuration file that only root can write", "denied")
        match operation:
            case "inspect":
                return self._find(name)[1]
            case "start" | "stop":
                return self._move(name, operation, _timeout(fields.get("timeout_sec")))
            case "logs":
                since = _moment(fields.get("since"), FIRST_OUTPUT_SEC)
                return self._logs(name, since, _moment(fields.get("until")))
        raise Refused("no such operation: use list, inspect, start, stop or logs", "denied")

    def _list(self, configured: Iterable[str]) -> dict[str, Any]:
        """The configured containers that exist. Raises Refused where no engine answered."""
        found, failures = [], []
        for name in configured:
            try:
                found.append(self._find(name)[1])
            except Refused as refused:
                failures.append(refused)
        if not found and failures and all(refused.reason == "unavailable" for refused in failures):
            raise failures[0]
        return {"containers": found}

    def _find(self, name: str) -> tuple[Engine, dict[str, Any]]:
        """The one container of that name, and its engine. Raises Refused."""
        match = REFERENCE.fullmatch(name)
        assert match is not None  # it is configured
        engine_name, wanted = match.groups()
        engine, until = self._found.get(name, (None, 0.0))
        if engine is not None and time.monotonic() < until:
            # Podman logs every request, so it is not asked four times a second while a container of Docker loads.
            with contextlib.suppress(Refused):
                if (known := self._inspect(engine, wanted)) is not None:
                    return engine, known
        self._found.pop(name, None)
        found = self._search(engine_name, wanted)
        self._found[name] = (found[0], time.monotonic() + REMEMBER_SEC)
        return found

    def _search(self, engine_name: str | None, wanted: str) -> tuple[Engine, dict[str, Any]]:
        """Ask every engine. Raises Refused."""
        found, failures = [], []
        for engine in self._asked(engine_name):
            try:
                state = self._inspect(engine, wanted)
            except Refused as refused:
                failures.append(refused)
            else:
                found += [(engine, state)] if state is not None else []
        if len({state["id"] for _, state in found}) > 1:
            raise Refused(
                f"container {wanted} exists in several engines ({', '.join(engine.path for engine, _ in found)}): name "
                f"its engine, docker:{wanted} or podman:{wanted}, or its id",
                "ambiguous",
            )
        if found:
            return found[0]
        if failures:
            raise Refused(f"container {wanted}: {'; '.join(map(str, failures))}", failures[0].reason)
        self.is_stale = self.is_stale or not all(os.path.exists(engine.path) for engine in self._engines)
        raise Refused(f"there is no container {wanted}", "not-found")

    def _asked(self, name: str | None) -> list[Engine]:
        """The engines that may have a container. Raises Refused where there is none."""
        named = [engine for engine in self._engines if name in (None, engine.name)]
        present = [engine for engine in named if os.path.exists(engine.path)]
        if not present:
            self.is_stale = True
            sockets = " or ".join(engine.path for engine in named)
            raise Refused(f"no {name or 'container engine'} answers: there is no socket {sockets}", "unavailable")
        return _distinct(present)

    def _inspect(self, engine: Engine, wanted: str) -> dict[str, Any] | None:
        """What an engine reports of a container, also of one that Compose has renamed; None without. Raises Refused."""
        state = self._named(engine, wanted)
        if state is not None and (state["running"] or not state["labels"].get(SERVICE_LABEL)):
            return state
        # Compose stops the container of that name while it creates another one, which may run under another name.
        renamed = find_renamed(engine, wanted)
        return renamed if renamed is not None and (state is None or renamed["running"]) else state

    def _named(self, engine: Engine, wanted: str) -> dict[str, Any] | None:
        """What an engine reports of the container of that name; None where it has none. Raises Refused."""
        try:
            answer = json.loads(engine.call("GET", f"/containers/{urllib.parse.quote(wanted)}/json"))
        except Refused as refused:
            if refused.reason == "not-found":
                return None
            self.is_stale = self.is_stale or refused.reason == "unavailable"  # it may have been started again
            raise
        except (ValueError, RecursionError):
            raise Refused(f"{engine.name} sent an answer that is not JSON", "failed") from None
        state = described(engine.name, table(answer))
        # An engine also accepts the shortest unambiguous prefix of an id, so a name could reach another container.
        is_prefix = len(wanted) >= MIN_ID_PREFIX and state["id"].startswith(wanted)
        return state if CONTAINER_ID.fullmatch(state["id"]) and (state["name"] == wanted or is_prefix) else None

    def _move(self, name: str, operation: str, timeout_sec: float) -> dict[str, Any]:
        """Start or stop a container. The engine's own grace period applies before it kills the processes."""
        engine, state = self._find(name)
        failed = f"container {state['name']} did not {operation}"
        try:
            engine.call("POST", f"/containers/{state['id']}/{operation}", timeout_sec)
        except Refused as refused:
            why = f" within {timeout_sec:g} s" if refused.reason == "timeout" else f": {refused}"
            raise Refused(f"{failed}{why}", refused.reason) from None
        return state

    def _logs(self, name: str, since: str, until: str) -> dict[str, Any]:
        engine, state = self._find(name)
        times = "".join(f"&{key}={value}" for key, value in (("since", since), ("until", until)) if value)
        url = f"/containers/{state['id']}/logs?stdout=1&stderr=1&tail={MAX_LOG_LINES}{times}"
        return {"lines": log_lines(engine.call("GET", url, limit=MAX_LOG_BYTES))}


def _distinct(engines: Iterable[Engine]) -> list[Engine]:
    """Engines without a second name of the same socket: podman-docker makes /run/docker.sock a link to Podman's."""
    found: dict[tuple[int, int], Engine] = {}
    for engine in engines:
        with contextlib.suppress(OSError):
            info = os.stat(engine.path)
            found[info.st_dev, info.st_ino] = engine  # the later one: Podman follows Docker
    return list(found.values())


def _timeout(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return min(max(float(value), 0.1), MAX_TIMEOUT_SEC) if is_number else ENGINE_SEC


def _moment(value: Any, earlier_sec: float = 0.0) -> str:
    """A time in a log request as seconds since 1970, which Docker requires; "" where an engine cannot have sent it.

    Args:
        value: a time as engines report it, in RFC 3339 with up to nine decimals.
        earlier_sec: seconds to subtract.
    """
    match = MOMENT.fullmatch(value) if isinstance(value, str) else None
    with contextlib.suppress(ValueError, OverflowError):
        if match is not None:
            whole, fraction, zone = match.groups()
            seconds = datetime.fromisoformat(f"{whole}{zone}").timestamp() + float(f"0{fraction or '.0'}") - earlier_sec
            return f"{max(0.0, seconds):.6f}"
    return ""


class Server:
    """Answers one request on each connection, several connections at a time.

    Args:
        listener: the listening socket.
        operations: carries out the requests.
        allowed_uids: user ids whose connections are answered.
        idle_sec: seconds without a connection after which ``serve`` returns.
    """

    def __init__(
        self, listener: socket.socket, operations: Operations, allowed_uids: Iterable[int], idle_sec: float = IDLE_SEC
    ) -> None:
        self._listener = listener
        self._operations = operations
        self._allowed_uids = frozenset(allowed_uids)
        self._idle_sec = idle_sec
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open = 0

    def serve(self) -> None:
        """Answer connections until none has come for a while, or until the engines' sockets must be found again."""
        began = last = time.monotonic()
        self._listener.settimeout(min(1.0, self._idle_sec))
        while self._open or not self._is_over(began, last):
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                last = time.monotonic()
                self._free.acquire()  # further connections wait in the listener's queue
                with self._lock:
                    self._open += 1
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _is_over(self, began: float, last: float) -> bool:
        now = time.monotonic()
        return now - last >= self._idle_sec or (self._operations.is_stale and now - began >= STALE_SEC)

    def _handle(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(REQUEST_SEC)
                connection.sendall(json.dumps(self._answer(connection)).encode() + b"\n")
        finally:
            with self._lock:
                self._open -= 1
            self._free.release()

    def _answer(self, connection: socket.socket) -> dict[str, Any]:
        try:
            if peer_uid(connection) not in self._allowed_uids:
                raise Refused("this user may not use the container helper", "denied")
            return {"ok": self._operations.carry_out(_request(connection))}
        except Refused as refused:
            return {"error": str(refused), "reason": refused.reason}


def peer_uid(connection: socket.socket) -> int:
    """User id of the process that connected, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _request(connection: socket.socket) -> Any:
    """Read one line of JSON. Raises Refused."""
    line, deadline = bytearray(), time.monotonic() + REQUEST_SEC
    while b"\n" not in line:
        if len(line) > MAX_REQUEST_BYTES or time.monotonic() > deadline:
            raise Refused("the request is too long or too slow", "denied")
        if not (piece := connection.recv(MAX_REQUEST_BYTES)):
            break
        line += piece
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("the request is not JSON", "denied") from None


def engines_of(variable: str, runtime_dir: str = "") -> list[Engine]:
    """The engines of the system, or of a user, and those of the environment variable.

    Args:
        variable: value of ENGINES_VARIABLE; entries that are not ``docker=/PATH`` or ``podman=/PATH`` are ignored.
        runtime_dir: runtime directory of the user; "" = the engines of the system.
    """
    own = [(name, f"{runtime_dir}/{path}") for name, path in USER_ENGINES] if runtime_dir else list(SYSTEM_ENGINES)
    pairs = [one.partition("=") for one in variable.split()]
    own += [(name, path) for name, _, path in pairs if name in ("docker", "podman") and path.startswith("/")]
    return [Engine(name, path) for name, path in own]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``gpumand-containers [--user]``; the listening socket is file descriptor 3, from systemd."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given not in ([], ["--user"]) or os.environ.get("LISTEN_FDS") != "1":
        sys.exit("usage: gpumand-containers [--user], started by its socket unit")
    variable, uid = os.environ.get(ENGINES_VARIABLE, ""), os.getuid()
    if given:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / DEFAULT_FILE.parent.name
        engines, allowed = engines_of(variable, os.environ["XDG_RUNTIME_DIR"]), {uid}
    else:
        folder, engines = DEFAULT_FILE.parent, engines_of(variable)
        allowed = {uid, pwd.getpwnam(DAEMON_USER).pw_uid}
    operations = Operations(lambda: configuration_files(folder), engines, uid)
    Server(socket.socket(fileno=FIRST_FD), operations, allowed).serve()


if __name__ == "__main__":
    main()
