"""Ways to say no that only exist on a bus: the call does not fit what is there."""

from __future__ import annotations

from gpumand.domain.errors import FREEDESKTOP, CallerError

SHOWN_CHARACTERS = 60


def shown(text: str) -> str:
    """What a caller sent, short and harmless enough to be repeated in an error message."""
    return repr(text) if len(text) <= SHOWN_CHARACTERS else repr(text[:SHOWN_CHARACTERS]) + "…"


class UnknownObject(CallerError):
    """Nothing is at that path."""

    dbus_name = FREEDESKTOP + "UnknownObject"


class UnknownInterface(CallerError):
    """The object does not have that interface."""

    dbus_name = FREEDESKTOP + "UnknownInterface"


class UnknownMethod(CallerError):
    """The interface does not have that method, or without an interface it is not clear which is meant."""

    dbus_name = FREEDESKTOP + "UnknownMethod"


class UnknownProperty(CallerError):
    """The interface does not have that property."""

    dbus_name = FREEDESKTOP + "UnknownProperty"


class PropertyReadOnly(CallerError):
    """No property of gpumand can be set."""

    dbus_name = FREEDESKTOP + "PropertyReadOnly"
