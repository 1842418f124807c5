"""Names of the arguments of the signals of ``org.gpumand1.Manager``, in order, as in its XML description."""

from __future__ import annotations

SIGNAL_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "EvictionOccurred": ("consumer", "device", "freed_mib", "method", "trigger", "details"),
    "EvictionFailed": ("consumer", "device", "freed_mib", "method", "trigger", "details"),
    "EvictionDeferred": ("consumer", "device", "freed_mib", "method", "trigger", "details"),
    "LeaseGranted": ("lease", "consumer"),
    "LeaseEnded": ("lease", "consumer", "reason"),
    "LeaseDegraded": ("lease", "consumer", "reason"),
    "LeaseRestored": ("lease", "consumer"),
    "LeaseWanted": ("lease", "by", "since_usec"),
    "LeaseYielded": ("lease", "consumer"),
    "LeaseReturned": ("lease", "consumer"),
}
