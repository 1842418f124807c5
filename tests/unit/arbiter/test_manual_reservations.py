"""Devices that manual evictions wait for: no job starts on them, and each reservation ends with its own wait."""

from __future__ import annotations

import pytest

from gpumand.arbiter.manual_reservations import ManualReservations
from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices
from gpumand.domain.request import Verdict


def load_on(place: Devices, extra_devices: Devices = ()) -> Decision:
    return Decision(Verdict.GRANT, place, load=True, extra_devices=extra_devices)


@pytest.mark.parametrize(
    ("decision", "concerned"),
    [
        (load_on((1,)), True),
        (load_on((0, 1)), True),
        (load_on((0,), extra_devices=(1,)), True),
        (load_on((0,), extra_devices=(2,)), False),
        (load_on((0, 2)), False),
    ],
)
def test_a_job_is_concerned_by_its_place_and_by_the_devices_of_its_victims(decision: Decision, concerned: bool) -> None:
    manual = ManualReservations()
    with manual.reserve((1,)):
        assert manual.concern(decision) is concerned
    assert not manual.concern(decision)


def test_a_device_stays_reserved_until_the_last_of_several_waits_has_ended() -> None:
    manual = ManualReservations()
    with manual.reserve((0, 1)):
        with manual.reserve((1,)):
            pass
        assert manual.concern(load_on((1,)))
        assert manual.concern(load_on((0,)))
    assert not manual.concern(load_on((0, 1)))


def test_a_wait_that_fails_gives_its_devices_back() -> None:
    manual = ManualReservations()
    with pytest.raises(TimeoutError), manual.reserve((0,)):
        raise TimeoutError
    assert not manual.concern(load_on((0,)))
