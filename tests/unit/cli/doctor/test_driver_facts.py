"""The doctor examines the driver without waking a sleeping card, and without opening a driver that is released."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.cli.doctor import host
from gpumand.domain.driver_power import NO_POWER, CardPower, CardState, DriverPower

ASLEEP = DriverPower((CardPower("0000:01:00.0", CardState.ASLEEP, can_sleep=True),))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of sources that were opened."""
    names: list[str] = []

    async def query() -> tuple[str, int]:
        names.append("nvml")
        return "driver-not-loaded: the NVIDIA kernel module is not loaded", 0

    monkeypatch.setattr(host, "_query_nvml", query)
    return names


def set_power(monkeypatch: pytest.MonkeyPatch, power: DriverPower) -> None:
    def read_power(folder: Path) -> DriverPower:
        return power

    monkeypatch.setattr("gpumand.vram.pci_power.read_power", read_power)


@pytest.mark.parametrize(
    ("power", "is_released", "is_opened"), [(ASLEEP, False, False), (NO_POWER, True, False), (NO_POWER, False, True)]
)
async def test_driver_is_opened_only_where_that_disturbs_nothing(
    monkeypatch: pytest.MonkeyPatch, opened: list[str], power: DriverPower, is_released: bool, is_opened: bool
) -> None:
    set_power(monkeypatch, power)

    found = await host.driver(is_released=is_released)

    assert opened == (["nvml"] if is_opened else [])
    assert bool(found.error) == is_opened
