"""What systemd's errors and job results mean to us."""

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

WHO_ALLOWS = "polkit has to, and does for units that files in /etc/gpumand name which only root can write"

LOAD_STATES_REFUSED = frozenset({"not-found", "masked", "bad-setting", "error"})

RESULT_WORDS = {
    "canceled": "another job took its place",
    "timeout": "its own time limit passed",
    "failed": "it failed",
    "dependency": "a unit that it needs failed",
    "skipped": "systemd skipped it",
    "done": "it ended at once",
    "gone": "how its job ended is not known",
}


def unit_failed(unit: str, verb: str, error: BusError) -> UnitFailed:
    """A refusal of systemd, or of the bus for it, as ours."""
    reason = REASONS.get(error.name, "failed")
    if error.name.startswith(FREEDESKTOP_ERROR + "Spawn."):
        reason = "unavailable"
    if isinstance(error, BusTimeout):
        return UnitFailed(f"cannot {verb} {unit}: systemd does not answer", "unavailable")
    if reason == "unavailable":
        return UnitFailed(f"cannot {verb} {unit}: no systemd on this bus ({error.message})", reason)
    if reason == "denied":
        return UnitFailed(f"systemd does not allow gpumand to {verb} {unit}: {error.message} ({WHO_ALLOWS})", reason)
    return UnitFailed(f"cannot {verb} {unit}: {error.message or error.name}", reason)


def result_words(result: str) -> str:
    """A job result for people; results of later versions go through as they are."""
    return RESULT_WORDS.get(result, f"job result {result!r}")
