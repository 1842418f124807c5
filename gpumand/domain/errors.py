"""All errors that a client can receive, grouped by the person or program that has to act.

GpumandError
├── CallerError      the caller must change the call
│   ├── InvalidArgs, LimitsExceeded, AccessDenied, InteractiveAuthorizationRequired   (names of freedesktop.org)
│   └── NoSuchConsumer, NoSuchLease, NoSuchRequest, NoSuchDevice, WouldDeadlock
├── NotNowError      temporary; the same call may succeed later
│   └── Busy, TimedOut, Cancelled, ConsumerBackingOff, ShuttingDown
├── HostError        the administrator of the host must act
│   └── InsufficientVram, LoadFailed, EvictionFailed, DeviceUnavailable
└── ConfigInvalid    the administrator must fix the configuration

Each class has one D-Bus name (``dbus_name``); the message is one line of English, to be shown to a person.
"""

from __future__ import annotations

ERROR_PREFIX = "org.gpumand1.Error."
FREEDESKTOP_ERROR_PREFIX = "org.freedesktop.DBus.Error."


class GpumandError(Exception):
    """Base class of all errors that reach a client; the message is reduced to one line."""

    dbus_name = ERROR_PREFIX + "Failed"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @property
    def message(self) -> str:
        """The message, one line."""
        return str(self.args[0])


class CallerError(GpumandError):
    """The caller must change the call."""


class InvalidArgs(CallerError):
    """An argument or option is unknown, of the wrong type, or out of range."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "InvalidArgs"


class LimitsExceeded(CallerError):
    """A cap on leases, waiting requests, calls or string lengths was reached."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "LimitsExceeded"


class AccessDenied(CallerError):
    """The caller may not do this."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "AccessDenied"


class InteractiveAuthorizationRequired(CallerError):
    """The call needs a password prompt, but the caller did not allow interactive authorization."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "InteractiveAuthorizationRequired"


class NoSuchConsumer(CallerError):
    """No consumer of that name is configured."""

    dbus_name = ERROR_PREFIX + "NoSuchConsumer"


class NoSuchLease(CallerError):
    """No active lease has that id."""

    dbus_name = ERROR_PREFIX + "NoSuchLease"


class NoSuchRequest(CallerError):
    """No waiting request has that id."""

    dbus_name = ERROR_PREFIX + "NoSuchRequest"


class NoSuchDevice(CallerError):
    """No device of that name is known."""

    dbus_name = ERROR_PREFIX + "NoSuchDevice"


class WouldDeadlock(CallerError):
    """The request waits for a lease that its own client keeps until the request is granted."""

    dbus_name = ERROR_PREFIX + "WouldDeadlock"


class NotNowError(GpumandError):
    """A temporary condition: the same call may succeed later."""


class Busy(NotNowError):
    """The request would have to wait, and its timeout is 0."""

    dbus_name = ERROR_PREFIX + "Busy"


class TimedOut(NotNowError):
    """The request waited as long as its timeout allows."""

    dbus_name = ERROR_PREFIX + "TimedOut"


class Cancelled(NotNowError):
    """The waiting request was cancelled by its user or by an administrator."""

    dbus_name = ERROR_PREFIX + "Cancelled"


class ConsumerBackingOff(NotNowError):
    """The last load of the consumer failed a short time ago; the next attempt has to wait."""

    dbus_name = ERROR_PREFIX + "ConsumerBackingOff"


class ShuttingDown(NotNowError):
    """The daemon or the host is stopping."""

    dbus_name = ERROR_PREFIX + "ShuttingDown"


class HostError(GpumandError):
    """The administrator of the host must act."""


class InsufficientVram(HostError):
    """There is not enough VRAM, even after evicting everything that may be evicted."""

    dbus_name = ERROR_PREFIX + "InsufficientVram"


class LoadFailed(HostError):
    """The unit or the load route of the consumer did not make it resident."""

    dbus_name = ERROR_PREFIX + "LoadFailed"


class EvictionFailed(HostError):
    """None of the eviction methods of a consumer freed its memory."""

    dbus_name = ERROR_PREFIX + "EvictionFailed"


class DeviceUnavailable(HostError):
    """The device is lost or cannot be read."""

    dbus_name = ERROR_PREFIX + "DeviceUnavailable"


class ConfigInvalid(GpumandError):
    """The configuration is invalid, or lacks a key that a consumer needs; the message names the key to set."""

    dbus_name = ERROR_PREFIX + "ConfigInvalid"
