"""Errors for calls to objects, interfaces, methods or properties that do not exist."""

from __future__ import annotations

from gpumand.domain.errors import FREEDESKTOP_ERROR_PREFIX, CallerError

MAX_QUOTED_CHARS = 60


def quoted(text: str) -> str:
    """Return a caller's text quoted, escaped and shortened, so that an error message can repeat it."""
    return repr(text) if len(text) <= MAX_QUOTED_CHARS else repr(text[:MAX_QUOTED_CHARS]) + "…"


class UnknownObject(CallerError):
    """No object exists at this path."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "UnknownObject"


class UnknownInterface(CallerError):
    """The object does not have that interface."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "UnknownInterface"


class UnknownMethod(CallerError):
    """The interface does not have that method, or the call names no interface and several have it."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "UnknownMethod"


class UnknownProperty(CallerError):
    """The interface does not have that property."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "UnknownProperty"


class PropertyReadOnly(CallerError):
    """The property cannot be set; of all properties only the log level can."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "PropertyReadOnly"
