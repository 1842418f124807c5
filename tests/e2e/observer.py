"""Records gpumand's signals on the bus until the machine is off."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.e2e.client import MANAGER
from tests.e2e.machine import Machine


class Observer:
    """A ``busctl monitor`` outside of the machine's units, so that a shutdown does not end it.

    Unlike ``gdbus monitor`` it does not start the daemon.
    """

    def __init__(self, machine: Machine) -> None:
        self._text = ""
        monitor = ["busctl", "monitor", "--json=short", f"--match=type='signal',interface='{MANAGER}'"]
        command = machine.container.command(monitor)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        machine.wait_until(lambda: "Monitoring bus message stream" in self.text(), "it listens")

    def text(self) -> str:
        """Return the output so far."""
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read():
            self._text += chunk.decode()
        return self._text

    def heard(self, member: str) -> list[list[Any]]:
        """Return the arguments of all signals of this name so far."""
        messages = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [one["payload"]["data"] for one in messages if one.get("member") == member]

    def close(self) -> None:
        """Stop recording."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
