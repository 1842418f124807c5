"""What is measured while the daemon is killed, as the file that docs/reliability.md is written from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.e2e.container import REPOSITORY

REPORT = REPOSITORY / "build" / "reliability.json"


@dataclass(frozen=True)
class Round:
    """One blow, and what became of everything.

    Attributes:
        blow, moment: which.
        kills: how many daemons were ended: 2 where the next one was killed in the middle of its start.
        was_called: whether somebody called meanwhile, so that the bus asked for a start; else systemd acted alone.
        blow_sec: from the blow to the first answer; gap_sec: from the loss of the name.
        ready_sec: from the start of the new process to READY.
        living: leases whose owner lived; kept: those of them that stood afterwards, under the same id.
        dead: leases whose owner died meanwhile; left: those of them that stood afterwards.
        told: waiting calls that ended with a named error; served: waiting clients that had their lease in the end.
    """

    blow: str
    moment: str
    kills: int
    was_called: bool
    blow_sec: float
    gap_sec: float
    ready_sec: float
    living: int
    kept: int
    dead: int
    left: int
    told: int
    served: int


@dataclass
class Figures:
    """All rounds, and what is known besides: ``cores`` of the host, and its load average when all was over."""

    seed: int
    cores: int
    exposure: str
    load: float = 0.0
    rounds: list[Round] = field(default_factory=list)

    def write(self, path: Path = REPORT) -> None:
        """Write it all down, in place of what was measured before."""
        self.load = os.getloadavg()[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
