"""Telemetry of AMD cards on fake trees: it is read only where that wakes no card and keeps none awake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumand.domain.telemetry import NO_TELEMETRY, Telemetry
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import HostTree, rx7900xtx
from gpumand.vram.amd_telemetry import read_telemetry
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.sysfs import cards

BDF = "0000:03:00.0"
FOLDER = f"/sys/devices/pci0000:00/0000:00:01.1/{BDF}"
FULL = Telemetry(93, 67, 110, 287.0, 327.0)


class Tree:
    """A desktop card of which the test sets files, and that notices when a file that wakes it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rx7900xtx(HostTree(root))
        sensors = {"name": "amdgpu", "temp1_input": 67000, "temp1_crit": 110000, "power1_average": 287000000}
        self.set("gpu_busy_percent", 93)
        for name, value in {**sensors, "power1_cap": 327000000}.items():
            self.set(f"hwmon/hwmon4/{name}", value)

    def set(self, name: str, value: object) -> None:
        path = self.root / f"{FOLDER}/{name}".lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def remove(self, name: str) -> None:
        (self.root / f"{FOLDER}/{name}".lstrip("/")).unlink()

    def power(self, status: str, control: str) -> None:
        self.set("power/runtime_status", status)
        self.set("power/control", control)

    def read(self, *, is_in_use: bool) -> Telemetry:
        return read_telemetry(cards(self.root)[BDF], is_in_use=is_in_use)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("status", "control", "is_in_use", "found"),
    [
        ("active", "on", False, FULL),
        ("active", "auto", True, FULL),
        ("active", "auto", False, NO_TELEMETRY),
        ("suspended", "auto", True, NO_TELEMETRY),
        ("suspending", "auto", True, NO_TELEMETRY),
        ("suspended", "on", False, NO_TELEMETRY),
    ],
)
def test_card_is_read_only_where_that_does_not_keep_it_awake(
    tree: Tree, status: str, control: str, is_in_use: bool, found: Telemetry
) -> None:
    tree.power(status, control)
    assert tree.read(is_in_use=is_in_use) == found


def test_files_of_a_sleeping_card_are_not_opened(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.power("suspended", "auto")
    opened: list[str] = []
    real_open = Path.open

    def noting_open(path: Path, *args: Any, **more: Any) -> object:
        opened.append(path.name)
        return real_open(path, *args, **more)

    monkeypatch.setattr(Path, "open", noting_open)
    tree.read(is_in_use=True)
    assert not {"gpu_busy_percent", "temp1_input", "power1_average"} & set(opened)


def test_newer_kernel_reports_the_power_of_the_moment_only(tree: Tree) -> None:
    tree.power("active", "on")
    tree.remove("hwmon/hwmon4/power1_average")
    tree.set("hwmon/hwmon4/power1_input", 55500000)
    assert tree.read(is_in_use=False).power_watts == 55.5


@pytest.mark.parametrize("content", ["", "garbage", "-1x", "9" * 30])
def test_damaged_values_are_unknown(tree: Tree, content: str) -> None:
    tree.power("active", "on")
    tree.set("hwmon/hwmon4/temp1_input", content)
    tree.set("gpu_busy_percent", content)
    found = tree.read(is_in_use=False)
    assert (found.temperature_celsius, found.utilization_percent, found.power_watts) == (None, None, 287.0)


def test_card_without_sensors_reports_what_it_has(tree: Tree) -> None:
    tree.power("active", "on")
    for name in ("name", "temp1_input", "temp1_crit", "power1_average", "power1_cap"):
        tree.remove(f"hwmon/hwmon4/{name}")
    assert tree.read(is_in_use=False) == Telemetry(93)


async def test_sensor_that_hangs_does_not_stop_the_readings_of_memory(tree: Tree) -> None:
    tree.power("active", "on")
    tree.remove("hwmon/hwmon4/temp1_input")
    HostTree(tree.root).fifo(f"{FOLDER}/hwmon/hwmon4/temp1_input")
    source = AmdgpuSource(FakeClock(start_sec=1000.0), tree.root)
    for _ in range(3):
        reading = await source.read()
        assert (reading.error, reading.devices[0].free_mib) == ("", 9712)
        assert reading.devices[0].telemetry == NO_TELEMETRY
    await source.close()


async def test_sample_of_a_card_in_use_has_telemetry(tree: Tree) -> None:
    tree.power("active", "auto")
    source = AmdgpuSource(FakeClock(start_sec=1000.0), tree.root)
    reading = await source.read()
    await source.close()
    assert reading.devices[0].telemetry == FULL
