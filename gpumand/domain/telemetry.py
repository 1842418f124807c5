"""What a GPU reports about its work beside its memory: utilisation, temperature and power.

Decisions do not depend on these values. Each of them is None where the driver does not report it, or where reading it
could wake a sleeping card.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Readings of one device; None = unknown.

    Attributes:
        utilization_percent: share of the last sample period of the driver in which a kernel was running, 0 to 100.
        temperature_celsius: temperature of the GPU.
        temperature_limit_celsius: temperature at which the driver slows the GPU down.
        power_watts: power draw of the card.
        power_limit_watts: power limit in force.
    """

    utilization_percent: int | None = None
    temperature_celsius: int | None = None
    temperature_limit_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None


NO_TELEMETRY = Telemetry()
