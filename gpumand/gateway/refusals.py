"""The gateway's own answers when a request is refused: status, Retry-After, and the reason in one line."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.client.errors import (
    AccessDenied,
    Busy,
    Cancelled,
    ConfigInvalid,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    GpumandError,
    InsufficientVram,
    LimitsExceeded,
    LoadFailed,
    NoSuchConsumer,
    TimedOut,
)

MIN_RETRY_SEC, MAX_RETRY_SEC = 5, 300
ABSENT_RETRY_SEC = 5
BACKOFF_RETRY_SEC = 30
"""Seconds after which a client should try again while failed loads delay the next one, if that pause is not known."""


class FleetUnavailable(GpumandError):
    """The fleet does not say now whether this host may load a consumer that one host only may have loaded."""


class AgentDown(FleetUnavailable):
    """gpumand-fleet does not run on this host, perhaps because it is being restarted."""


ESTIMATED, PAUSE = -1, -2
"""In ``_REFUSALS`` and ``retry_of``: Retry-After is the estimated time, or the rest of the pause after failed loads."""

_REFUSALS: tuple[tuple[tuple[type[GpumandError], ...], int, str, int | None], ...] = (
    ((InsufficientVram,), 503, "insufficient_vram", None),
    ((ConfigInvalid,), 503, "config_invalid", None),
    ((LoadFailed, ConsumerBackingOff), 503, "load_failed", PAUSE),
    ((Busy, TimedOut, LimitsExceeded), 429, "gpu_busy", ESTIMATED),
    ((EvictionFailed, DeviceUnavailable), 503, "gpu_unavailable", ESTIMATED),
    ((FleetUnavailable,), 503, "fleet_unavailable", ABSENT_RETRY_SEC),
    ((NoSuchConsumer,), 503, "no_such_consumer", None),
    ((AccessDenied,), 503, "access_denied", None),
    # A library that repeated it by itself would undo what a person has decided.
    ((Cancelled,), 503, "cancelled", None),
)
"""Errors of gpumand, with status, code and Retry-After."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused.

    Attributes:
        status: HTTP status; 429 becomes 503 in dialects whose clients expect that.
        code: word for programs, such as "gpu_busy".
        message: the reason and what to do, in one line.
        retry_sec: value of Retry-After; None = none, because the same request cannot succeed later by itself.
    """

    status: int
    code: str
    message: str
    retry_sec: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether clients must not repeat the request by themselves."""
        return self.status >= 500 and self.retry_sec is None


class Refused(Exception):
    """Ends the handling of a request with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class NotDelivered(Refused):
    """Refused before the service has got any part of the request."""


def refused(status: int, code: str, message: str, retry_sec: int | None = None) -> Refused:
    """The exception for a refusal; see ``Refusal``."""
    return Refused(Refusal(status, code, message, retry_sec))


def refusal_of(error: GpumandError, retry_sec: int, pause_sec: int = BACKOFF_RETRY_SEC) -> Refusal:
    """The refusal for an error of gpumand.

    Args:
        error: the error that an Acquire ended with.
        retry_sec: estimated seconds until the consumer could be free.
        pause_sec: seconds until its load is tried again after failed ones.
    """
    for kinds, status, code, retry in _REFUSALS:
        if isinstance(error, kinds):
            after = clamped(retry_sec) if retry == ESTIMATED else pause_sec if retry == PAUSE else retry
            return Refusal(status, code, error.message, after)
    return Refusal(503, "unavailable", error.message, ABSENT_RETRY_SEC)


def retry_of(error: GpumandError) -> int | None:
    """Seconds of Retry-After for an error; None = none; ``ESTIMATED`` or ``PAUSE`` if they depend on the status."""
    return next((retry for kinds, _, _, retry in _REFUSALS if isinstance(error, kinds)), ABSENT_RETRY_SEC)


def clamped(seconds: float) -> int:
    """A value of Retry-After within reasonable bounds."""
    return round(min(MAX_RETRY_SEC, max(MIN_RETRY_SEC, seconds)))
