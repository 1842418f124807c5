"""Rows of hosts for tests."""

from __future__ import annotations

from gpumand.domain.residency_states import Residency
from gpumand.fleet.rows import ConsumerRow, DeviceRow, HostRow

H1 = "1" * 32
H2 = "2" * 32


def row(machine_id: str = H1, epoch: int = 1, seq: int = 1, **consumers: ConsumerRow) -> HostRow:
    """A host with one device of 24 GiB."""
    device = DeviceRow("GPU-0", total_mib=24576, free_mib=0)
    return HostRow(machine_id, epoch, seq, name="h", url="https://h:8447", devices=(device,), consumers=consumers)


RESIDENT = ConsumerRow(Residency.RESIDENT, need_mib=8000, leases=2, limit=4, load_ms=9000, wake_ms=800, device=0)
