"""What a GPU reports about its work beside its memory: utilisation, temperature and power.

Decisions do not depend on these values. Each of them is None where the driver does not report it, or where reading it
could wake a sleeping card.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


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

MAX_POINTS = 60
"""Readings kept for each device and consumer: 2 minutes at the default sample interval."""

MAX_CONSUMERS = 256
"""Consumers with a history. More cannot hold memory at the same time on any host that is known."""

UNKNOWN = -1
"""A value in a series that could not be read. It differs from every reading, so that it is not taken for 0."""


@dataclass(frozen=True, slots=True)
class DevicePoint:
    """One reading of a device in its history; None = unknown."""

    used_mib: int | None
    telemetry: Telemetry = NO_TELEMETRY


Series = tuple[int, ...]
"""Readings at the sample interval, the newest last; UNKNOWN where there was none."""


class TelemetryHistory:
    """The last readings of devices and of consumers that hold memory, at most MAX_POINTS of each.

    A consumer that has held no memory since the oldest reading is forgotten, so that the size does not depend on the
    number of configured consumers.
    """

    def __init__(self) -> None:
        self._times_usec: deque[int] = deque(maxlen=MAX_POINTS)
        self._devices: dict[int, deque[DevicePoint]] = {}
        self._consumers: dict[str, deque[int | None]] = {}

    def add(self, taken_usec: int, devices: Mapping[int, DevicePoint], consumers: Mapping[str, int | None]) -> None:
        """Add one reading.

        Args:
            taken_usec: CLOCK_REALTIME of the reading in microseconds.
            devices: the devices by index; a device that is missing is forgotten.
            consumers: MiB that consumers hold, by name; None = unknown.
        """
        self._times_usec.append(taken_usec)
        self._devices = {index: self._extended(self._devices.get(index), point) for index, point in devices.items()}
        held = {name: mib for name, mib in consumers.items() if mib or name in self._consumers}
        extended = {name: self._extended(self._consumers.get(name), mib) for name, mib in held.items()}
        kept = ((name, values) for name, values in extended.items() if any(values))
        self._consumers = dict(islice(kept, MAX_CONSUMERS))

    @staticmethod
    def _extended(values: deque[T] | None, value: T) -> deque[T]:
        extended: deque[T] = deque(maxlen=MAX_POINTS) if values is None else values
        extended.append(value)
        return extended

    @property
    def times_usec(self) -> tuple[int, ...]:
        """When the readings were taken, the oldest first."""
        return tuple(self._times_usec)

    def device(self, index: int) -> Mapping[str, Series]:
        """The series of a device by name, each with its unit; those that were never known are absent."""
        points = self._devices.get(index, ())
        series = {
            "used_mib": tuple(_or_unknown(one.used_mib) for one in points),
            "utilization_percent": tuple(_or_unknown(one.telemetry.utilization_percent) for one in points),
            "temperature_celsius": tuple(_or_unknown(one.telemetry.temperature_celsius) for one in points),
            "power_watts": tuple(_or_unknown(one.telemetry.power_watts) for one in points),
        }
        return {name: values for name, values in series.items() if any(value != UNKNOWN for value in values)}

    def held_mib(self, consumer: str) -> Series:
        """MiB held by a consumer; () where it has held none since the oldest reading."""
        return tuple(map(_or_unknown, self._consumers.get(consumer, ())))


def _or_unknown(value: float | None) -> int:
    return UNKNOWN if value is None else round(value)
