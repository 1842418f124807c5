"""Requests of clients that do not use gpumand, and requests to gpumand that a test does not wait for at once."""

from __future__ import annotations

import itertools
import json
import subprocess
from types import TracebackType
from typing import Any

from tests.e2e.client import MANAGER, NAME, ROOT, Option, packed, plain
from tests.e2e.machine import Machine, close
from tests.real.host import SOUND, RealHost

ANSWERS = "/run/real-answers"
_numbers = itertools.count()


class PlainRequest:
    """A request by curl in the background. A file receives its answer.

    The end of the ``with`` statement aborts the request if it is still running.
    """

    def __init__(self, host: RealHost, *arguments: str) -> None:
        """Send the request. ``arguments`` are those of curl."""
        self._machine = host.machine
        self._machine.run(["mkdir", "--parents", ANSWERS])
        path = f"{ANSWERS}/{next(_numbers)}"
        self._file = host.inside(path)
        self._process = self._machine.start(["curl", "--silent", "--no-buffer", "--output", path, *arguments])

    @property
    def answer(self) -> bytes:
        """The part of the answer that has arrived."""
        return self._file.read_bytes() if self._file.exists() else b""

    @property
    def answered_at(self) -> float:
        """Time at which the last part of the answer has arrived, in seconds since 1970."""
        return self._file.stat().st_mtime

    @property
    def runs(self) -> bool:
        """Whether the request is still running: neither answered nor cut off."""
        return self._process.poll() is None

    def close(self) -> None:
        """Abort the request, like a client that exits. May be called again."""
        close(self._process)

    def finish(self, deadline_sec: float = 30) -> bytes:
        """Wait for the complete answer. Raises AssertionError if the server cut it off."""
        status = self._process.wait(deadline_sec)
        assert status == 0, f"curl ended with {status} after {len(self.answer)} bytes: {self.answer[-200:]!r}"
        return self.answer

    def __enter__(self) -> PlainRequest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream(PlainRequest):
    """A completion that arrives token by token and has no end."""

    def __init__(self, host: RealHost, port: int, model: str = "") -> None:
        """Send the request.

        Args:
            host: the host of the server.
            port: port of the server.
            model: name of the model, if the server is a router.
        """
        body = {"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": True}
        body |= {"model": model} if model else {}
        super().__init__(host, f"http://127.0.0.1:{port}/completion", "--data", json.dumps(body))

    def __enter__(self) -> Stream:
        return self

    @property
    def tokens(self) -> int:
        """Number of tokens that have arrived."""
        return self.answer.count(b"data: ")

    def await_tokens(self, number: int = 50) -> None:
        """Wait for this many further tokens. Raises AssertionError if the server cut the stream off."""
        wanted = self.tokens + number
        self._machine.wait_until(lambda: self.tokens >= wanted or not self.runs, "further tokens arrive")
        assert self.runs, f"the stream was cut off after {self.tokens} tokens: {self.answer[-200:]!r}"


def transcription(host: RealHost, port: int) -> PlainRequest:
    """Request a transcription from a whisper-server, which takes some seconds."""
    form = ("--form", f"file=@{SOUND}", "--form", "response_format=json")
    return PlainRequest(host, f"http://127.0.0.1:{port}/inference", *form)


class PendingAcquire:
    """An Acquire in the background. Use it in a ``with`` statement."""

    def __init__(self, machine: Machine, consumer: str, **options: Option) -> None:
        """Send the request."""
        command = ["busctl", "--json=short", "--timeout=60", "call", NAME, ROOT, MANAGER, "Acquire", "sa{sv}"]
        self._process: subprocess.Popen[str] = machine.start([*command, consumer, *packed(options)])

    @property
    def waits(self) -> bool:
        """Whether the request still waits: neither granted nor refused."""
        return self._process.poll() is None

    def grant(self, deadline_sec: float = 30) -> tuple[str, dict[str, Any]]:
        """Wait for the lease's id and the grant. Raises AssertionError if the request was refused."""
        printed, said = self._process.communicate(timeout=deadline_sec)
        assert self._process.returncode == 0, said
        lease, grant = plain(json.loads(printed))
        return lease, grant

    def __enter__(self) -> PendingAcquire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close(self._process)
