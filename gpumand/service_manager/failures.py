"""Converts systemd's errors and job results into UnitFailed and readable text."""

from __future__ import annotations

from gpumand.bus.connection import BusError, BusTimeout
from gpumand.ports import UnitFailed

SYSTEMD_ERROR = "org.freedesktop.systemd1."
FREEDESKTOP_ERROR = "org.freedesktop.DBus.Error."

REASONS = {
    SYSTEMD_ERROR + "NoSuchUnit": "not-found",
    SYSTEMD_ERROR + "UnitMasked": "masked",
    SYSTEMD_ERROR + "BadUnitSetting": "bad-setting",
    SYSTEMD_ERROR + "LoadFailed": "bad-setting",
    SYSTEMD_ERROR + "TransactionIsDestructive": "shutting-down",
    SYSTEMD_ERROR + "ShuttingDown": "shutting-down",
    SYSTEMD_ERROR + "OnlyByDependency": "only-by-dependency",
    FREEDESKTOP_ERROR + "AccessDenied": "denied",
    FREEDESKTOP_ERROR + "AuthFailed": "denied",
    FREEDESKTOP_ERROR + "InteractiveAuthorizationRequired": "denied",
    FREEDESKTOP_ERROR + "ServiceUnknown": "unavailable",
    FREEDESKTOP_ERROR + "NameHasNoOwner": "unavailable",
    FREEDESKTOP_ERROR + "NoReply": "unavailable",
    FREEDESKTOP_ERROR + "Disconnected": "unavailable",
    FREEDESKTOP_ERROR + "UnknownMethod": "unavailable",
    FREEDESKTOP_ERROR + "UnknownObject": "unavailable",
    FREEDESKTOP_ERROR + "UnknownInterface": "unavailable",
}

POLKIT_HINT = "polkit allows it for units that are named in a file below /etc/gpumand that only root can write"

UNUSABLE_LOAD_STATES = frozenset({"not-found", "masked", "bad-setting", "error"})

RESULT_DESCRIPTIONS = {
    "canceled": "another job replaced its job",
    "timeout": "its own time limit expired",
    "failed": "it failed",
    "dependency": "a unit that it depends on failed",
    "skipped": "systemd skipped it",
    "done": "it exited immediately",
    "gone": "the result of its job is unknown",
}


def unit_failed(unit: str, verb: str, error: BusError) -> UnitFailed:
    """Return the UnitFailed for an error reply of systemd, or of the bus.

    Args:
        unit: name of the unit, for the message.
        verb: the failed operation, such as "start".
        error: the error reply.
    """
    reason = REASONS.get(error.name, "failed")
    if error.name.startswith(FREEDESKTOP_ERROR + "Spawn."):
        reason = "unavailable"
    if isinstance(error, BusTimeout):
        return UnitFailed(f"cannot {verb} {unit}: systemd does not answer", "unavailable")
    if reason == "unavailable":
        return UnitFailed(f"cannot {verb} {unit}: no systemd on this bus ({error.message})", reason)
    if reason == "denied":
        return UnitFailed(f"systemd does not allow gpumand to {verb} {unit}: {error.message} ({POLKIT_HINT})", reason)
    return UnitFailed(f"cannot {verb} {unit}: {error.message or error.name}", reason)


def describe_result(result: str) -> str:
    """Return a job result as text; an unknown result of a later systemd is quoted."""
    return RESULT_DESCRIPTIONS.get(result, f"job result {result!r}")
