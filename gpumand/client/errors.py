"""Every error that the client raises: those of the daemon under their own names, and what keeps an answer from coming.

They differ by who must act, as those of the daemon do (see ``gpumand.domain.errors``)::

    GpumandError             catches all of them; ``message`` is one line, ``dbus_name`` the name on the bus
    ├── CallerError          InvalidArgs, LimitsExceeded, AccessDenied, InteractiveAuthorizationRequired,
    │                        NoSuchConsumer, NoSuchLease, NoSuchDevice
    ├── NotNowError          Busy, TimedOut, ConsumerBackingOff, ShuttingDown, NoAnswer
    ├── HostError            InsufficientVram, LoadFailed, EvictionFailed, DeviceUnavailable,
    │                        NotRunning, BusUnavailable, Mismatch
    └── ConfigInvalid

An error of a later daemon, of a name not known here, is a plain ``GpumandError``; its ``dbus_name`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.domain.errors import (
    FREEDESKTOP,
    AccessDenied,
    Busy,
    CallerError,
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
    NotNowError,
    ShuttingDown,
    TimedOut,
)

__all__ = [
    "AccessDenied",
    "BusUnavailable",
    "Busy",
    "CallerError",
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
    "NotNowError",
    "NotRunning",
    "ShuttingDown",
    "TimedOut",
]
"""What ``gpumand.client`` names too: the errors, and nothing else."""


class NotRunning(HostError):
    """Nobody owns org.gpumand1 on this bus, and nobody could be started who does."""

    dbus_name = FREEDESKTOP + "ServiceUnknown"


class BusUnavailable(HostError):
    """There is no bus where it was looked for, it does not let us in, or the connection to it broke."""

    dbus_name = FREEDESKTOP + "Disconnected"


class NoAnswer(NotNowError):
    """gpumand hangs, or left the bus while it was asked (stopped, restarted or crashed)."""

    dbus_name = FREEDESKTOP + "NoReply"


class Mismatch(HostError):
    """The daemon speaks otherwise than this version of the interface says: was it upgraded and not restarted?"""

    dbus_name = FREEDESKTOP + "InconsistentMessage"


_OWN = (
    AccessDenied,
    Busy,
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
    ShuttingDown,
    TimedOut,
)

NOBODY = (FREEDESKTOP + "ServiceUnknown", FREEDESKTOP + "NameHasNoOwner")
"""What the bus says where nobody owns the name, and nobody can be started."""

NOT_STARTED = (
    FREEDESKTOP + "Spawn.ChildExited",
    FREEDESKTOP + "Spawn.Failed",
    FREEDESKTOP + "Spawn.ServiceNotFound",
    FREEDESKTOP + "Spawn.ExecFailed",
    FREEDESKTOP + "TimedOut",
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.UnitMasked",
)
"""What the bus says where it tried to start gpumand in vain."""

UNSPOKEN = (
    FREEDESKTOP + "UnknownMethod",
    FREEDESKTOP + "UnknownInterface",
    FREEDESKTOP + "UnknownObject",
    FREEDESKTOP + "InvalidSignature",
)
"""What a daemon says that does not know what it is asked for."""

LEFT = (FREEDESKTOP + "NoReply", FREEDESKTOP + "Disconnected")
"""What the bus says where the daemon left in the middle of a call."""

_KINDS: dict[str, type[GpumandError]] = {
    **{kind.dbus_name: kind for kind in _OWN},
    **dict.fromkeys((*NOBODY, *NOT_STARTED), NotRunning),
    **dict.fromkeys(UNSPOKEN, Mismatch),
    **dict.fromkeys(LEFT, NoAnswer),
}


def named(name: str, message: str) -> GpumandError:
    """The error for a name on the bus; a plain ``GpumandError`` for one that is not known here."""
    error = _KINDS.get(name, GpumandError)(message or name)
    error.dbus_name = name
    return error


@contextmanager
def translated() -> Iterator[None]:
    """Within it, whatever goes wrong on the bus is one of our errors."""
    try:
        yield
    except BusTimeout as error:
        raise NoAnswer(error.message) from None
    except BusError as error:
        raise named(error.name, error.message) from None
    except BusLost as error:
        raise BusUnavailable(str(error)) from error
