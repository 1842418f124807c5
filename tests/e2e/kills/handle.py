"""An agent inside the machine, held from outside: orders out, answers in."""

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
    """What became of an order: ``error`` is "" where ``value`` is its result."""

    value: Any = None
    error: str = ""
    message: str = ""


class Handle:
    """One agent. It runs as root, in a process of its own."""

    def __init__(self, machine: Machine) -> None:
        """Start it, and do not wait for it."""
        command = ["env", "-i", *ENVIRONMENT, *module_command("tests.e2e.kills.agent").split()]
        argv = machine.container.command(command, "", f"system.slice/{SHELL_UNIT}")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.PIPE)
        self._numbers = itertools.count(1)
        self._answers: dict[int, Answer] = {}
        self._rest = b""
        self._pid = 0

    @property
    def pid(self) -> int:
        """Its pid inside; waits until it is on the bus."""
        deadline = time.monotonic() + START_SEC
        while not self._pid:
            self._read(deadline, "the agent is on the bus")
        return self._pid

    def ask(self, do: str, **arguments: Any) -> int:
        """Give an order and do not wait for it; its number."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        return number

    def answer(self, number: int, within_sec: float = ANSWER_SEC) -> Answer:
        """Wait for what becomes of an order."""
        deadline = time.monotonic() + within_sec
        while number not in self._answers:
            self._read(deadline, f"an answer to order {number}")
        return self._answers.pop(number)

    def is_answered(self, number: int) -> bool:
        """Whether it is answered by now."""
        while self._is_readable(0):
            self._read(time.monotonic(), "what is there")
        return number in self._answers

    def do(self, do: str, **arguments: Any) -> Any:
        """Give an order and wait for its result. Raises AssertionError where it fails."""
        answer = self.answer(self.ask(do, **arguments))
        assert not answer.error, f"{do} {arguments}: {answer.error}: {answer.message}"
        return answer.value

    def call(self, member: str, signature: str = "", *body: Any) -> Any:
        """Call the Manager and wait; its results."""
        return self.do("call", member=member, signature=signature, body=list(body))

    def status(self) -> dict[str, Any]:
        """GetStatus."""
        (status,) = self.call("GetStatus")
        assert isinstance(status, dict)
        return status

    def ask_for(self, consumer: str, **options: str | int) -> int:
        """Acquire, without waiting; the order's number."""
        typed = {key: [OPTION_TYPES[key], value] for key, value in options.items()}
        return self.ask("call", member="Acquire", signature="sa{sv}", body=[consumer, typed])

    def acquire(self, consumer: str, **options: str | int) -> str:
        """Acquire; the lease's id."""
        answer = self.answer(self.ask_for(consumer, **options))
        assert not answer.error, f"Acquire {consumer}: {answer.error}: {answer.message}"
        return str(answer.value[0])

    def end(self) -> None:
        """Kill it, if it lives; the bus ends its connection."""
        self._process.kill()
        self._process.communicate()

    def _is_readable(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], max(0.0, seconds))[0])

    def _read(self, deadline: float, what: str) -> None:
        """Take in what the agent says, up to some whole line. Raises AssertionError when it is late or has died."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        assert self._is_readable(deadline - time.monotonic()), f"not in time: {what}"
        chunk = os.read(self._process.stdout.fileno(), 1 << 16)
        assert chunk, f"an agent died before {what}:\n{self._process.stderr.read().decode(errors='replace')}"
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for said in map(json.loads, lines):
            if "id" in said:
                answer = Answer(said.get("result"), said.get("error", ""), said.get("message", ""))
                self._answers[said["id"]] = answer
            else:
                self._pid = said["pid"]
