"""What the simulation engine keeps of requests and of leases at work."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.decision import Requirement
from gpumand.domain.device import Devices
from gpumand.domain.queue_pass import QueueEntry
from gpumand.domain.request import Request
from gpumand.simulation.outcome import UseResult


@dataclass(slots=True, eq=False)
class SimulatedRequest:
    """A request that waits, has a running job, or has been granted."""

    request: Request
    requirement: Requirement
    result: UseResult
    queue_entry: QueueEntry
    job_devices: Devices = ()


@dataclass(slots=True)
class RunningLease:
    """The work of a lease: remaining seconds at full speed, and the current speed."""

    entry: SimulatedRequest
    place: Devices
    left_sec: float
    since: float
    pace: float = 1.0
    is_ending: bool = False
