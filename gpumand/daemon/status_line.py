"""The status line that systemd shows for the daemon."""

from __future__ import annotations

from gpumand.domain.residency_states import Residency
from gpumand.domain.status import Status


def status_line(status: Status) -> str:
    """The daemon's state in one line, for ``systemctl status``."""
    resident = sum(1 for consumer in status.consumers if consumer.residency == Residency.RESIDENT)
    leases = f"{len(status.leases)} lease{'s' if len(status.leases) != 1 else ''}"
    parts = [f"{resident}/{len(status.consumers)} consumers resident", leases]
    known = [(one.free_mib, one.total_mib) for one in status.devices if one.free_mib is not None and one.total_mib]
    if known:
        free_gib, total_gib = sum(free for free, _ in known) / 1024, sum(total for _, total in known) / 1024
        parts.append(f"{free_gib:.1f} of {total_gib:.1f} GiB free")
    return ", ".join(parts) + (f"; degraded: {status.degraded}" if status.degraded else "")
