"""What the work gate says while the host suspends, the driver is released, or the daemon stops."""

from __future__ import annotations

import pytest

from gpumand.arbiter.work_gate import WorkGate


@pytest.mark.parametrize(
    ("gate", "held", "is_open"),
    [
        (WorkGate(), "", True),
        (WorkGate(suspending="the host is suspending"), "the host is suspending", False),
        (WorkGate(driver_released="the driver is released"), "the driver is released", False),
        (WorkGate(suspending="the host is suspending", driver_released="x"), "the host is suspending", False),
        (WorkGate(refused="gpumand is stopping"), "", False),
    ],
)
def test_gate(gate: WorkGate, held: str, is_open: bool) -> None:
    assert (gate.held, gate.is_open) == (held, is_open)


def test_end_of_a_suspend_does_not_open_the_gate_of_a_released_driver() -> None:
    gate = WorkGate(suspending="the host is suspending", driver_released="the driver is released")
    gate.suspending = ""
    assert (gate.held, gate.is_open) == ("the driver is released", False)
