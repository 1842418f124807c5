"""Every error that the client raises: the errors of the daemon, and the reasons for which no answer arrives.

They are grouped by where the problem must be solved, like those of the daemon (see ``gpumand.domain.errors``)::

    GpumandError             catches all of them; ``message`` is one line, ``dbus_name`` the name on the bus
    ├── CallerError          InvalidArgs, LimitsExceeded, AccessDenied, InteractiveAuthorizationRequired,
    │                        NoSuchConsumer, NoSuchLease, NoSuchRequest, NoSuchDevice, WouldDeadlock
    ├── NotNowError          Busy, TimedOut, Cancelled, ConsumerBackingOff, ShuttingDown, NoAnswer
    ├── HostError            InsufficientVram, LoadFailed, EvictionFailed, DeviceUnavailable,
    │                        NotRunning, BusUnavailable, Mismatch
    └── ConfigInvalid

An error name that this version does not know is raised as a plain ``GpumandError`` with that name in ``dbus_name``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.domain.errors import (
    FREEDESKTOP_ERROR_PREFIX,
    AccessDenied,
    Busy,
    CallerError,
    Cancelled,
    ConfigInvalid,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    GpumandError,
    HostError,
    InsufficientVram,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    LimitsExceeded,
    LoadFailed,
    NoSuchConsumer,
    NoSuchDevice,
    NoSuchLease,
    NoSuchRequest,
    NotNowError,
    ShuttingDown,
    TimedOut,
    WouldDeadlock,
)

__all__ = [
    "AccessDenied",
    "BusUnavailable",
    "Busy",
    "CallerError",
    "Cancelled",
    "ConfigInvalid",
    "ConsumerBackingOff",
    "DeviceUnavailable",
    "EvictionFailed",
    "GpumandError",
    "HostError",
    "InsufficientVram",
    "InteractiveAuthorizationRequired",
    "InvalidArgs",
    "LimitsExceeded",
    "LoadFailed",
    "Mismatch",
    "NoAnswer",
    "NoSuchConsumer",
    "NoSuchDevice",
    "NoSuchLease",
    "NoSuchRequest",
    "NotNowError",
    "NotRunning",
    "ShuttingDown",
    "TimedOut",
    "WouldDeadlock",
]
"""The error classes; ``gpumand.client`` exports the same names."""


class NotRunning(HostError):
    """gpumand is not on this bus and could not be started by activation."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "ServiceUnknown"


class BusUnavailable(HostError):
    """The bus does not exist at its address, refuses the connection, or the connection broke."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "Disconnected"


class NoAnswer(NotNowError):
    """gpumand did not answer in time, or left the bus during the call (stopped, restarted or crashed)."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "NoReply"


class Mismatch(HostError):
    """The daemon's answer does not match the D-Bus interface of this version; an upgraded daemon may need a restart."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "InconsistentMessage"


_DAEMON_ERRORS = (
    AccessDenied,
    Busy,
    Cancelled,
    ConfigInvalid,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    InsufficientVram,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    LimitsExceeded,
    LoadFailed,
    NoSuchConsumer,
    NoSuchDevice,
    NoSuchLease,
    NoSuchRequest,
    ShuttingDown,
    TimedOut,
    WouldDeadlock,
)

NO_OWNER_ERRORS = (FREEDESKTOP_ERROR_PREFIX + "ServiceUnknown", FREEDESKTOP_ERROR_PREFIX + "NameHasNoOwner")
"""Errors of the bus when no process owns the name and none can be started."""

ACTIVATION_ERRORS = (
    FREEDESKTOP_ERROR_PREFIX + "Spawn.ChildExited",
    FREEDESKTOP_ERROR_PREFIX + "Spawn.Failed",
    FREEDESKTOP_ERROR_PREFIX + "Spawn.ServiceNotFound",
    FREEDESKTOP_ERROR_PREFIX + "Spawn.ExecFailed",
    FREEDESKTOP_ERROR_PREFIX + "TimedOut",
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.UnitMasked",
)
"""Errors of the bus when starting gpumand by activation failed."""

UNKNOWN_CALL_ERRORS = (
    FREEDESKTOP_ERROR_PREFIX + "UnknownMethod",
    FREEDESKTOP_ERROR_PREFIX + "UnknownInterface",
    FREEDESKTOP_ERROR_PREFIX + "UnknownObject",
    FREEDESKTOP_ERROR_PREFIX + "InvalidSignature",
)
"""Errors of a daemon that does not know the called method or object."""

DISCONNECT_ERRORS = (FREEDESKTOP_ERROR_PREFIX + "NoReply", FREEDESKTOP_ERROR_PREFIX + "Disconnected")
"""Errors of the bus when the daemon left during a call."""

_CLASSES: dict[str, type[GpumandError]] = {
    **{kind.dbus_name: kind for kind in _DAEMON_ERRORS},
    **dict.fromkeys((*NO_OWNER_ERRORS, *ACTIVATION_ERRORS), NotRunning),
    **dict.fromkeys(UNKNOWN_CALL_ERRORS, Mismatch),
    **dict.fromkeys(DISCONNECT_ERRORS, NoAnswer),
}


def error_for(name: str, message: str) -> GpumandError:
    """The exception for a D-Bus error name; a plain ``GpumandError`` for an unknown name."""
    error = _CLASSES.get(name, GpumandError)(message or name)
    error.dbus_name = name
    return error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Convert the errors of the bus connection, raised in the block, into the errors of this module."""
    try:
        yield
    except BusTimeout as error:
        raise NoAnswer(error.message) from None
    except BusError as error:
        raise error_for(error.name, error.message) from None
    except BusLost as error:
        raise BusUnavailable(str(error)) from error
