"""The power state of cards by fake folders of sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.domain.driver_power import CardPower, CardState, DriverPower
from gpumand.vram.pci_power import read_power

ADDRESS = "0000:01:00.0"


def add_card(driver: Path, address: str, status: str, control: str) -> None:
    power = driver / address / "power"
    power.mkdir(parents=True)
    (power / "runtime_status").write_text(f"{status}\n")
    (power / "control").write_text(f"{control}\n")


@pytest.mark.parametrize(
    ("status", "control", "state", "can_sleep"),
    [
        ("active", "on", CardState.ACTIVE, False),
        ("active", "auto", CardState.ACTIVE, True),
        ("resuming", "auto", CardState.ACTIVE, True),
        ("suspended", "auto", CardState.ASLEEP, True),
        ("suspending", "auto", CardState.ASLEEP, True),
        ("unsupported", "auto", CardState.UNKNOWN, False),
        ("error", "auto", CardState.UNKNOWN, False),
        ("", "", CardState.UNKNOWN, False),
    ],
)
def test_state_of_a_card(tmp_path: Path, status: str, control: str, state: CardState, can_sleep: bool) -> None:
    add_card(tmp_path, ADDRESS, status, control)
    assert read_power(tmp_path) == DriverPower((CardPower(ADDRESS, state, can_sleep),))


def test_other_entries_of_the_driver_are_no_cards(tmp_path: Path) -> None:
    for name in ("bind", "new_id", "module"):
        (tmp_path / name).mkdir()
    add_card(tmp_path, ADDRESS, "suspended", "auto")
    add_card(tmp_path, "0000:02:00.0", "active", "on")
    power = read_power(tmp_path)
    assert [card.address for card in power.cards] == [ADDRESS, "0000:02:00.0"]
    assert (power.can_sleep, power.is_asleep) == (True, True)


def test_driver_that_is_not_loaded_has_no_cards(tmp_path: Path) -> None:
    power = read_power(tmp_path / "nvidia")
    assert (power.cards, power.can_sleep, power.is_asleep) == ((), False, False)


def test_card_without_power_files_does_not_count_as_asleep(tmp_path: Path) -> None:
    (tmp_path / ADDRESS).mkdir()
    assert not read_power(tmp_path).is_asleep
