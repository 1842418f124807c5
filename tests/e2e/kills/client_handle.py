"""Controls a remote client inside the machine: sends commands and receives answers."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from tests.e2e.installation import module_command
from tests.e2e.machine import ENVIRONMENT, SHELL_UNIT, Machine

START_SEC, ANSWER_SEC = 20.0, 60.0
OPTION_TYPES = {"lifetime": "s", "token": "s", "reason": "s", "ttl_usec": "t", "timeout_usec": "t"}


@dataclass(frozen=True)
class Answer:
    """The answer to a command: ``error`` is "" if ``value`` is its result."""

    value: Any = None
    error: str = ""
    message: str = ""


class ClientHandle:
    """One remote client, which runs as root in its own process."""

    def __init__(self, machine: Machine) -> None:
        """Start the client without waiting for it."""
        command = ["env", "-i", *ENVIRONMENT, *module_command("tests.e2e.kills.remote_client").split()]
        argv = machine.container.command(command, "", f"system.slice/{SHELL_UNIT}")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.PIPE)
        self._numbers = itertools.count(1)
        self._answers: dict[int, Answer] = {}
        self._rest = b""
        self._pid = 0

    @property
    def pid(self) -> int:
        """Its pid inside the machine; waits until the client is on the bus."""
        deadline = time.monotonic() + START_SEC
        while not self._pid:
            self._read(deadline, "the client is on the bus")
        return self._pid

    def send(self, do: str, **arguments: Any) -> int:
        """Send a command without waiting for it. Returns its number."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        return number

    def answer(self, number: int, within_sec: float = ANSWER_SEC) -> Answer:
        """Wait for the answer to a command."""
        deadline = time.monotonic() + within_sec
        while number not in self._answers:
            self._read(deadline, f"an answer to command {number}")
        return self._answers.pop(number)

    def do(self, do: str, **arguments: Any) -> Any:
        """Send a command and wait for its result. Raises AssertionError if it fails."""
        answer = self.answer(self.send(do, **arguments))
        assert not answer.error, f"{do} {arguments}: {answer.error}: {answer.message}"
        return answer.value

    def call(self, member: str, signature: str = "", *body: Any) -> Any:
        """Call a method of the Manager and wait. Returns its results."""
        return self.do("call", member=member, signature=signature, body=list(body))

    def status(self) -> dict[str, Any]:
        """Return the status of the daemon."""
        (status,) = self.call("GetStatus")
        assert isinstance(status, dict)
        return status

    def start_acquire(self, consumer: str, **options: str | int) -> int:
        """Call Acquire without waiting. Returns the number of the command."""
        typed = {key: [OPTION_TYPES[key], value] for key, value in options.items()}
        return self.send("call", member="Acquire", signature="sa{sv}", body=[consumer, typed])

    def acquire(self, consumer: str, **options: str | int) -> str:
        """Call Acquire and wait. Returns the lease id."""
        answer = self.answer(self.start_acquire(consumer, **options))
        assert not answer.error, f"Acquire {consumer}: {answer.error}: {answer.message}"
        return str(answer.value[0])

    def end(self) -> None:
        """Kill the client if it is running; the bus closes its connection."""
        self._process.kill()
        self._process.communicate()

    def _is_readable(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], max(0.0, seconds))[0])

    def _read(self, deadline: float, what: str) -> None:
        """Read output of the client. Raises AssertionError if the deadline passes or the client dies."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        assert self._is_readable(deadline - time.monotonic()), f"not in time: {what}"
        chunk = os.read(self._process.stdout.fileno(), 1 << 16)
        assert chunk, f"a client died before {what}:\n{self._process.stderr.read().decode(errors='replace')}"
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in map(json.loads, lines):
            if "id" in line:
                answer = Answer(line.get("result"), line.get("error", ""), line.get("message", ""))
                self._answers[line["id"]] = answer
            else:
                self._pid = line["pid"]
