"""D-Bus error names become exceptions."""

from __future__ import annotations

import pytest

import gpumand.client
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.client import BusUnavailable, GpumandError, InsufficientVram, Mismatch, NoAnswer, NotRunning, errors
from gpumand.client.errors import error_for, translate_errors
from gpumand.domain import errors as domain

FREEDESKTOP_ERROR_PREFIX = "org.freedesktop.DBus.Error."


def daemon_errors() -> list[type[GpumandError]]:
    """Every error class of the daemon with its own D-Bus name."""
    kinds = [one for one in vars(domain).values() if isinstance(one, type) and issubclass(one, GpumandError)]
    return [kind for kind in kinds if "dbus_name" in vars(kind) and kind is not GpumandError]


@pytest.mark.parametrize("kind", daemon_errors())
def test_every_error_of_the_daemon_is_raised_as_its_class(kind: type[GpumandError]) -> None:
    error = error_for(kind.dbus_name, "no, because")
    assert type(error) is kind
    assert (error.message, error.dbus_name) == ("no, because", kind.dbus_name)


def test_every_error_can_be_imported_from_the_client() -> None:
    names = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, GpumandError)}
    assert names <= set(gpumand.client.__all__)
    assert all(hasattr(gpumand.client, name) for name in gpumand.client.__all__)


def test_unknown_error_keeps_its_name() -> None:
    error = error_for("org.gpumand1.Error.MoonIsFull", "wait for the next")
    assert type(error) is GpumandError
    assert (error.dbus_name, error.message) == ("org.gpumand1.Error.MoonIsFull", "wait for the next")


def test_error_without_a_message_has_its_name_as_message() -> None:
    assert error_for("org.example.Odd", "").message == "org.example.Odd"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (FREEDESKTOP_ERROR_PREFIX + "ServiceUnknown", NotRunning),
        (FREEDESKTOP_ERROR_PREFIX + "NameHasNoOwner", NotRunning),
        (FREEDESKTOP_ERROR_PREFIX + "Spawn.ChildExited", NotRunning),
        ("org.freedesktop.systemd1.UnitMasked", NotRunning),
        (FREEDESKTOP_ERROR_PREFIX + "NoReply", NoAnswer),
        (FREEDESKTOP_ERROR_PREFIX + "UnknownMethod", Mismatch),
    ],
)
def test_errors_of_the_bus_are_classified(name: str, kind: type[GpumandError]) -> None:
    assert type(error_for(name, "the reason")) is kind


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (BusError("org.gpumand1.Error.InsufficientVram", "8 GiB are missing"), InsufficientVram),
        (BusTimeout("it did not answer within 10 s"), NoAnswer),
        (BusLost("the bus closed the connection"), BusUnavailable),
        (Mismatch("its status has no leases"), Mismatch),
    ],
)
def test_connection_errors_become_client_errors(raised: Exception, kind: type[GpumandError]) -> None:
    with pytest.raises(GpumandError) as caught, translate_errors():
        raise raised
    assert type(caught.value) is kind


def test_other_exceptions_are_not_changed() -> None:
    with pytest.raises(ZeroDivisionError), translate_errors():
        raise ZeroDivisionError
