"""Errors between routers and agents, and their form on HTTP: a status, a name and one line.

The errors of gpumand itself keep their D-Bus names, so that a client of the fleet can treat them as it treats those of
the local daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.client.errors import NoAnswer, NotRunning, error_for
from gpumand.domain.errors import (
    ERROR_PREFIX,
    AccessDenied,
    Busy,
    CallerError,
    ConsumerBackingOff,
    GpumandError,
    HostError,
    InsufficientVram,
    InteractiveAuthorizationRequired,
    LimitsExceeded,
    NoSuchConsumer,
    NoSuchDevice,
    NoSuchLease,
    NotNowError,
    ShuttingDown,
    TimedOut,
    WouldDeadlock,
)
from gpumand.fleet.json_fields import MAX_MESSAGE, is_integer, one_line


class StaleToken(NotNowError):
    """The router's table is older than what the agent has seen; ``seen`` is the revision that it must reach."""

    dbus_name = ERROR_PREFIX + "StaleToken"

    def __init__(self, message: str, seen: int = 0) -> None:
        super().__init__(message)
        self.seen = seen


class NotResident(NotNowError):
    """The request was placed for a consumer that is loaded, and it is not loaded any more: an intent is needed."""

    dbus_name = ERROR_PREFIX + "NotResident"


class HostLost(NotNowError):
    """The host cannot be reached, or has stopped answering.

    Attributes:
        is_refusal: one of both sides does not accept the certificate of the other, which no wait changes.
    """

    dbus_name = ERROR_PREFIX + "HostLost"

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


class HostDrained(ShuttingDown):
    """An administrator drains the host. Routers of earlier versions, which do not know it, try another host."""

    dbus_name = ERROR_PREFIX + "HostDrained"


class NoSuchHost(CallerError):
    """The fleet has no host of that name."""

    dbus_name = ERROR_PREFIX + "NoSuchHost"


class NoHost(HostError):
    """No host of the fleet can serve the request."""

    dbus_name = ERROR_PREFIX + "NoHost"


_OWN: Mapping[str, type[GpumandError]] = {
    kind.dbus_name: kind for kind in (StaleToken, NotResident, HostLost, HostDrained, NoSuchHost, NoHost)
}

_STATUS: tuple[tuple[type[GpumandError], int], ...] = (
    (AccessDenied, 403),
    (InteractiveAuthorizationRequired, 403),
    (NoSuchConsumer, 404),
    (NoSuchLease, 404),
    (NoSuchDevice, 404),
    (NoSuchHost, 404),
    (LimitsExceeded, 429),
    (WouldDeadlock, 409),
    (StaleToken, 409),
    (NotResident, 409),
    (CallerError, 400),
    (TimedOut, 504),
    (Busy, 503),
    (ConsumerBackingOff, 503),
    (ShuttingDown, 503),
    (NoAnswer, 503),
    (NotRunning, 503),
    (NotNowError, 503),
    (InsufficientVram, 507),
    (NoHost, 503),
)


def http_status(error: GpumandError) -> int:
    """The HTTP status of an error: 503 and 504 mean that the same request may succeed later."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_body(error: GpumandError) -> dict[str, Any]:
    """The JSON form of an error."""
    body: dict[str, Any] = {"error": error.dbus_name, "message": error.message}
    return body | {"seen": error.seen} if isinstance(error, StaleToken) else body


def error_of(body: Mapping[str, Any], where: str) -> GpumandError:
    """The error of a JSON form, which another host has sent.

    Args:
        body: the form.
        where: name of the host, put before the message.
    """
    name = one_line(str(body.get("error", "")), 256)
    message = one_line(f"{where}: {body.get('message') or 'no reason given'}", MAX_MESSAGE)
    if name == StaleToken.dbus_name:
        seen = body.get("seen")
        return StaleToken(message, seen if is_integer(seen) else 0)
    return _OWN[name](message) if name in _OWN else error_for(name, message)
