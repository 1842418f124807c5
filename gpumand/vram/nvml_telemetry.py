"""Reads utilisation, temperature and power through NVML.

These calls are additional load on the driver, so they are made sparingly: with every reading for a device that is in
use, with every fifth one for an idle device, and never for values that the device does not support. MIG instances have
none of these values.

All functions block; call them in the library's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.telemetry import NO_TELEMETRY, Telemetry
from gpumand.vram.nvml_library import CallFailed, Code, NvmlLibrary

IDLE_READINGS = 5
"""Telemetry of a device without processes is read with one of this many readings."""

LIMIT_READINGS = 30
"""The limits are read with one of this many readings of the telemetry: they change only by hand."""

GPU_SENSOR = 0
"""NVML_TEMPERATURE_GPU."""

SLOWDOWN = 1
"""NVML_TEMPERATURE_THRESHOLD_SLOWDOWN."""

UNSUPPORTED = frozenset({Code.NOT_SUPPORTED, Code.FUNCTION_NOT_FOUND, Code.INVALID_ARGUMENT})
MILLI = 1000


@dataclass(slots=True)
class _Device:
    """What is known of a device: its last telemetry, how often it was due, and functions that it does not support."""

    last: Telemetry = NO_TELEMETRY
    readings: int = 0
    telemetry_readings: int = 0
    unsupported: set[str] = field(default_factory=set)


class NvmlTelemetry:
    """Telemetry of all devices in one session of NVML."""

    def __init__(self, library: NvmlLibrary) -> None:
        self._library = library
        self._devices: dict[str, _Device] = {}

    def forget(self) -> None:
        """Forget everything, after the library was closed: another driver may support other values."""
        self._devices.clear()

    def read(self, uuid: str, handle: Any, *, is_in_use: bool) -> Telemetry:
        """Return the telemetry of a device; between two readings of it, the last one.

        Args:
            uuid: the device.
            handle: NVML's handle of it.
            is_in_use: a process holds memory on it.

        Raises:
            LibraryFailed: the library cannot be used.
        """
        device = self._devices.setdefault(uuid, _Device())
        is_due = is_in_use or device.readings % IDLE_READINGS == 0
        device.readings += 1
        if is_due:
            device.last = self._values(device, handle)
            device.telemetry_readings += 1
        return device.last

    def last(self, uuid: str) -> Telemetry:
        """The last telemetry of a device, without a driver call."""
        device = self._devices.get(uuid)
        return NO_TELEMETRY if device is None else device.last

    def _values(self, device: _Device, handle: Any) -> Telemetry:
        nvml, telemetry = self._library.nvml, device.last
        if device.telemetry_readings % LIMIT_READINGS == 0:
            limit = self._call(device, nvml.temperature_threshold, handle, SLOWDOWN)
            watts = _watts(self._call(device, nvml.power_limit_mw, handle))
            telemetry = replace(telemetry, temperature_limit_celsius=limit, power_limit_watts=watts)
        return replace(
            telemetry,
            utilization_percent=_percent(self._call(device, nvml.utilization, handle)),
            temperature_celsius=self._call(device, nvml.temperature, handle, GPU_SENSOR),
            power_watts=_watts(self._call(device, nvml.power_mw, handle)),
        )

    def _call(self, device: _Device, function: Callable[..., int], *args: Any) -> int | None:
        """Return the result of a call; None if it fails. A function that is not supported is not called again."""
        name = function.__name__
        if name in device.unsupported:
            return None
        try:
            return self._library.call(function, *args)
        except CallFailed as failure:
            if failure.code in UNSUPPORTED:
                device.unsupported.add(name)
            return None


def _percent(value: int | None) -> int | None:
    # Some drivers report nonsense while the GPU changes its power state.
    return None if value is None or not 0 <= value <= 100 else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / MILLI
