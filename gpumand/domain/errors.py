"""Every way to say no, by who must act.

GpumandError
├── CallerError      the caller must ask differently
│   ├── InvalidArgs, LimitsExceeded, AccessDenied, InteractiveAuthorizationRequired   (names of freedesktop.org)
│   └── NoSuchConsumer, NoSuchLease, NoSuchDevice
├── NotNowError      nobody is at fault; the same call may succeed later
│   └── Busy, TimedOut, ConsumerBackingOff, ShuttingDown
├── HostError        whoever runs the host must look
│   └── InsufficientVram, LoadFailed, EvictionFailed, DeviceUnavailable
└── ConfigInvalid    whoever edits the configuration must look

Each class has one D-Bus name (``dbus_name``); the message is one line of English for people.
"""

from __future__ import annotations

OWN = "org.gpumand1.Error."
FREEDESKTOP = "org.freedesktop.DBus.Error."


class GpumandError(Exception):
    """Root of all errors that reach a client. The message is one line."""

    dbus_name = OWN + "Failed"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @property
    def message(self) -> str:
        """The line for people."""
        return str(self.args[0])


class CallerError(GpumandError):
    """The caller must ask differently."""


class InvalidArgs(CallerError):
    """An argument or option is unknown, of the wrong type, or out of range."""

    dbus_name = FREEDESKTOP + "InvalidArgs"


class LimitsExceeded(CallerError):
    """A cap on leases, waiting requests, calls or string lengths was reached."""

    dbus_name = FREEDESKTOP + "LimitsExceeded"


class AccessDenied(CallerError):
    """The caller may not do this."""

    dbus_name = FREEDESKTOP + "AccessDenied"


class InteractiveAuthorizationRequired(CallerError):
    """The caller could be asked for a password, but did not allow it."""

    dbus_name = FREEDESKTOP + "InteractiveAuthorizationRequired"


class NoSuchConsumer(CallerError):
    """No consumer of that name is configured."""

    dbus_name = OWN + "NoSuchConsumer"


class NoSuchLease(CallerError):
    """No lease of that id stands."""

    dbus_name = OWN + "NoSuchLease"


class NoSuchDevice(CallerError):
    """No device of that index or UUID is known."""

    dbus_name = OWN + "NoSuchDevice"


class NotNowError(GpumandError):
    """Nobody is at fault; the same call may succeed later."""


class Busy(NotNowError):
    """It would have to wait, and was told not to."""

    dbus_name = OWN + "Busy"


class TimedOut(NotNowError):
    """It waited as long as it was told to."""

    dbus_name = OWN + "TimedOut"


class ConsumerBackingOff(NotNowError):
    """The last load failed a short while ago."""

    dbus_name = OWN + "ConsumerBackingOff"


class ShuttingDown(NotNowError):
    """The daemon or the host is stopping."""

    dbus_name = OWN + "ShuttingDown"


class HostError(GpumandError):
    """Whoever runs the host must look."""


class InsufficientVram(HostError):
    """It cannot fit, whoever is evicted."""

    dbus_name = OWN + "InsufficientVram"


class LoadFailed(HostError):
    """The consumer's unit or route did not bring it up."""

    dbus_name = OWN + "LoadFailed"


class EvictionFailed(HostError):
    """No method of a consumer gave its memory back."""

    dbus_name = OWN + "EvictionFailed"


class DeviceUnavailable(HostError):
    """The device is lost or cannot be read."""

    dbus_name = OWN + "DeviceUnavailable"


class ConfigInvalid(GpumandError):
    """The configuration cannot be used, or says too little of a consumer; the message names what is to be written."""

    dbus_name = OWN + "ConfigInvalid"
