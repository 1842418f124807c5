"""Somebody who hears what gpumand says on the bus, to the very end of the machine."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.e2e.client import MANAGER
from tests.e2e.machine import Machine


class Observer:
    """A ``busctl monitor`` outside of the machine's own units, so that no shutdown of these ends it.

    Unlike ``gdbus monitor`` it starts nothing by listening.
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
        """All that was printed so far."""
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read():
            self._text += chunk.decode()
        return self._text

    def heard(self, member: str) -> list[list[Any]]:
        """The arguments of all signals of that name so far."""
        messages = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [one["payload"]["data"] for one in messages if one.get("member") == member]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
