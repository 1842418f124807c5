"""The doctor examines the driver without waking a sleeping card, and without opening a driver that is released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.cli.doctor import host
from gpumand.cli.doctor.collect import _uses_nvml
from gpumand.cli.doctor.facts import Configuration, Facts
from gpumand.domain.consumer import Settings
from gpumand.domain.driver_power import NO_POWER, CardPower, CardState, DriverPower
from gpumand.domain.gpu_settings import GpuSettings
from gpumand.testing.host_tree import HostTree
from tests.unit.cli.doctor.healthy_host import HEALTHY

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


@pytest.mark.parametrize(("driver", "examined"), [("", True), ("vfio-pci", False), (None, False)])
def test_nvmls_library_is_examined_only_where_there_is_a_card_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str | None, examined: bool
) -> None:
    """On a host with another card, "install libnvidia-ml1" would be no advice."""
    tree = HostTree(tmp_path)
    tree.write("/sys/bus/pci/devices/.keep", "")
    if driver is not None:
        tree.add_nvidia_card(driver=driver)
    monkeypatch.setenv("GPUMAND_HOST_ROOT", str(tmp_path))
    assert _uses_nvml(with_source("auto")) == examined
    broken = replace(HEALTHY, config=Configuration(), status=None)
    assert _uses_nvml(broken) == examined, "also where the files have errors"
    assert _uses_nvml(with_source("nvml"))


def with_source(name: str) -> Facts:
    return replace(HEALTHY, config=Configuration(settings=Settings(gpu=GpuSettings(source=name))))
