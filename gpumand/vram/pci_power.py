"""Reads the runtime power management of the cards of a driver from sysfs. Reading it never wakes a card.

``/sys/bus/pci/drivers/DRIVER`` has a link for each card of the driver. In the card's folder, ``power/control`` is
``auto`` where the kernel may suspend the card, and ``power/runtime_status`` is its state
(Documentation/ABI/testing/sysfs-devices-power in the kernel's sources).
"""

from __future__ import annotations

import re
from pathlib import Path

from gpumand.domain.driver_power import CardPower, CardState, DriverPower

NVIDIA = "/sys/bus/pci/drivers/nvidia"
MAX_CARDS = 64
MAX_BYTES = 64
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def read_power(driver: Path) -> DriverPower:
    """Return the power states of all cards of a driver; none where the driver is not loaded. Blocking code.

    Args:
        driver: folder of the driver in sysfs.
    """
    try:
        addresses = sorted(entry.name for entry in driver.iterdir() if _ADDRESS.fullmatch(entry.name))
    except OSError:
        return DriverPower()
    return DriverPower(tuple(card_power(driver / address) for address in addresses[:MAX_CARDS]))


def card_power(card: Path) -> CardPower:
    """Return the power state of a card by its folder in sysfs. Blocking code."""
    status, control = _read(card / "power/runtime_status"), _read(card / "power/control")
    # "suspending" is asleep as well: opening the driver now would wake the card again.
    asleep = status in ("suspended", "suspending")
    state = CardState.ASLEEP if asleep else CardState.ACTIVE if status in ("active", "resuming") else CardState.UNKNOWN
    # Without runtime power management, runtime_status is "unsupported", whatever power/control says.
    return CardPower(card.name, state, control == "auto" and state is not CardState.UNKNOWN)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
