"""The server of the container helper in a thread, which ends when the test is done and not during one of its pauses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from types import TracebackType

from gpumand.root_helpers.containers import Operations, Server
from tests.waiting import DEADLINE_SEC

ENDLESS_SEC = 3600.0


class HelperServer:
    """Serves on a socket.

    Args:
        path: of the socket.
        operations: carries out the requests.
        uids: users whose requests are answered.
        idle_sec: seconds without a connection after which the server ends by itself; None = the test ends it.
    """

    def __init__(self, path: str, operations: Operations, uids: Iterable[int], idle_sec: float | None = None) -> None:
        self.path = path
        self._ends_by_itself = idle_sec is not None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._server = Server(self._listener, operations, uids, ENDLESS_SEC if idle_sec is None else idle_sec)
        self._thread = threading.Thread(target=self._server.serve)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Wait for the end of the server. Raises AssertionError after the deadline."""
        if not self._ends_by_itself:
            self._server._idle_sec = 0.0
            self._listener.settimeout(0.01)  # for the next wait of the server; a connection ends the current one
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)
        self._thread.join(DEADLINE_SEC)
        assert not self._thread.is_alive(), "the server has not ended"
        self._listener.close()

    def __enter__(self) -> str:
        self.start()
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
