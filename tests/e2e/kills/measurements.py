"""Measurements of the kill test: the file from which docs/reliability.md is generated."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.e2e.container import REPOSITORY

REPORT = REPOSITORY / "build" / "reliability.json"


@dataclass(frozen=True)
class Round:
    """One kill and its consequences.

    Attributes:
        method, situation: how and when the daemon was ended.
        kills: number of daemons that were ended: 2 if the restarted one was killed during its start.
        was_called: whether a client called meanwhile, so that the bus started the daemon; else systemd restarted it.
        kill_to_answer_sec: from the kill to the first answer; gap_sec: from the loss of the name.
        ready_sec: from the start of the new process to READY.
        living: leases whose owner lived; kept: those that were active afterwards under the same id.
        dead: leases whose owner died meanwhile; left: those that were active afterwards.
        refused: waiting calls that ended with a named error; served: waiting clients that had their lease in the end.
    """

    method: str
    situation: str
    kills: int
    was_called: bool
    kill_to_answer_sec: float
    gap_sec: float
    ready_sec: float
    living: int
    kept: int
    dead: int
    left: int
    refused: int
    served: int


@dataclass
class Measurements:
    """All rounds, with the number of ``cores`` of the host and its load average at the end."""

    seed: int
    cores: int
    exposure: str
    load: float = 0.0
    rounds: list[Round] = field(default_factory=list)

    def write(self, path: Path = REPORT) -> None:
        """Write the report and replace the previous one."""
        self.load = os.getloadavg()[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
