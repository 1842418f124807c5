"""Short forms of rows for the tests of placement, table and router."""

from __future__ import annotations

from gpumand.domain.residency_states import Residency
from gpumand.fleet.placement import FleetView
from gpumand.fleet.rows import ConsumerRow, DeviceRow, HostRow

COLD, PARKED, RESIDENT = Residency.UNLOADED, Residency.PARKED, Residency.RESIDENT
LOADING, FAILED = Residency.LOADING, Residency.FAILED


def machine_id(number: int) -> str:
    return f"{number:032x}"


def host(number: int, *, free: int | None = 24000, total: int | None = 24564, **more: object) -> HostRow:
    """A host gpuN with one device."""
    consumers = {name: one for name, one in more.items() if isinstance(one, ConsumerRow)}
    rest = {name: one for name, one in more.items() if not isinstance(one, ConsumerRow)}
    defaults: dict[str, object] = {"name": f"gpu{number}", "url": f"http://gpu{number}:8447", "seq": 1}
    return HostRow(
        machine_id(number),
        devices=(DeviceRow(f"GPU-{number}", total, free),),
        consumers=consumers,
        **(defaults | rest),  # type: ignore[arg-type]
    )


def consumer(residency: Residency = COLD, **more: object) -> ConsumerRow:
    """A consumer of 14000 MiB with measured times: 10 s to load, 2 s to wake, 1 s to unload, leases of 5 s."""
    times: dict[str, object] = {"need_mib": 14000, "load_ms": 10_000, "wake_ms": 2000, "park_ms": 1000, "hold_ms": 5000}
    return ConsumerRow(residency, **(times | more))  # type: ignore[arg-type]


def fleet(*rows: HostRow, **more: object) -> FleetView:
    return FleetView({row.machine_id: row for row in rows}, **more)  # type: ignore[arg-type]
