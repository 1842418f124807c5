"""Reads utilisation, temperature and power of AMD cards from sysfs, where reading them wakes no card.

Most of these files resume a suspended card, and each access starts the time again after which the card may be
suspended: read at every interval, they would keep it awake for ever. So they are read only while processes hold memory
on the card, which keeps it awake anyway, and where the kernel may not suspend it (``power/control`` is ``on``).
Elsewhere the values stay unknown. Units are those of Documentation/hwmon/sysfs-interface: millidegrees and microwatts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpumand.domain.telemetry import NO_TELEMETRY, Telemetry
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.sysfs import Card, read_number, read_word

MILLI, MICRO = 1000, 1_000_000
MAX_SENSORS = 8
TIMEOUT_SEC = 0.5
"""Real seconds for which the readings of memory wait for telemetry. Sensors hang while a card is being reset."""


@dataclass(frozen=True, slots=True)
class UsedCard:
    """A card, and whether processes hold memory on it."""

    card: Card
    is_in_use: bool


class AmdTelemetry:
    """Reads telemetry in a thread of its own, so that a sensor that hangs does not stop the readings of memory."""

    def __init__(self) -> None:
        self._thread = CallThread("gpumand-amd-sensors", TIMEOUT_SEC)
        self._last: dict[str, Telemetry] = {}

    async def read(self, cards: Mapping[str, UsedCard], *, is_quick: bool) -> Mapping[str, Telemetry]:
        """Return the telemetry of cards by UUID.

        Args:
            cards: the cards by UUID.
            is_quick: readings follow each other quickly, and the last telemetry is current enough.
        """
        if not is_quick:
            chosen = dict(cards)
            try:
                self._last = await self._thread.call(lambda: _read_all(chosen))
            except (CallHangs, ThreadClosed):
                self._last = {}
        return self._last

    def close(self) -> None:
        """End the thread; a call that hangs is abandoned."""
        self._thread.close()


def _read_all(cards: Mapping[str, UsedCard]) -> dict[str, Telemetry]:
    return {uuid: read_telemetry(one.card, is_in_use=one.is_in_use) for uuid, one in cards.items()}


def read_telemetry(card: Card, *, is_in_use: bool) -> Telemetry:
    """Return what the card reports about its work; values that it does not report are None. Blocking code.

    Args:
        card: the card.
        is_in_use: processes hold memory on it.
    """
    if not _is_awake(card, is_in_use=is_in_use):
        return NO_TELEMETRY
    busy_percent = read_number(card.path / "gpu_busy_percent")
    folder = _sensors(card)
    if folder is None:
        return Telemetry(utilization_percent=busy_percent)
    watts = _watts(folder / "power1_average")
    return Telemetry(
        utilization_percent=busy_percent,
        temperature_celsius=_degrees(folder / "temp1_input"),
        temperature_limit_celsius=_degrees(folder / "temp1_crit"),
        power_watts=_watts(folder / "power1_input") if watts is None else watts,
        power_limit_watts=_watts(folder / "power1_cap"),
    )


def _is_awake(card: Card, *, is_in_use: bool) -> bool:
    """Whether the card is awake, and stays as it is if it is read."""
    if read_word(card.path / "power/runtime_status") in ("suspended", "suspending", "resuming"):
        return False
    return is_in_use or read_word(card.path / "power/control") == "on"


def _sensors(card: Card) -> Path | None:
    """The folder of the card's sensors; its number changes with the order in which drivers are loaded."""
    try:
        names = sorted(name for name in os.listdir(card.path / "hwmon") if name.startswith("hwmon"))[:MAX_SENSORS]
    except OSError:
        return None
    folders = (card.path / "hwmon" / name for name in names)
    return next((folder for folder in folders if read_word(folder / "name") == "amdgpu"), None)


def _degrees(path: Path) -> int | None:
    value = read_number(path)
    return None if value is None else value // MILLI


def _watts(path: Path) -> float | None:
    value = read_number(path)
    return None if value is None else value / MICRO
