"""Names on the bus become exceptions."""

from __future__ import annotations

import pytest

import gpumand.client
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.client import BusUnavailable, GpumandError, InsufficientVram, Mismatch, NoAnswer, NotRunning, errors
from gpumand.client.errors import named, translated
from gpumand.domain import errors as domain

FREEDESKTOP = "org.freedesktop.DBus.Error."


def concrete() -> list[type[GpumandError]]:
    """Every error of the daemon that has a name of its own."""
    kinds = [one for one in vars(domain).values() if isinstance(one, type) and issubclass(one, GpumandError)]
    return [kind for kind in kinds if "dbus_name" in vars(kind) and kind is not GpumandError]


@pytest.mark.parametrize("kind", concrete())
def test_every_error_of_the_daemon_comes_as_its_own_class(kind: type[GpumandError]) -> None:
    error = named(kind.dbus_name, "no, because")
    assert type(error) is kind
    assert (error.message, error.dbus_name) == ("no, because", kind.dbus_name)


def test_every_error_can_be_imported_from_the_client() -> None:
    names = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, GpumandError)}
    assert names <= set(gpumand.client.__all__)
    assert all(hasattr(gpumand.client, name) for name in gpumand.client.__all__)


def test_error_of_a_later_daemon_keeps_its_name() -> None:
    error = named("org.gpumand1.Error.MoonIsFull", "wait for the next")
    assert type(error) is GpumandError
    assert (error.dbus_name, error.message) == ("org.gpumand1.Error.MoonIsFull", "wait for the next")


def test_error_without_a_word_says_its_name() -> None:
    assert named("org.example.Odd", "").message == "org.example.Odd"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (FREEDESKTOP + "ServiceUnknown", NotRunning),
        (FREEDESKTOP + "NameHasNoOwner", NotRunning),
        (FREEDESKTOP + "Spawn.ChildExited", NotRunning),
        ("org.freedesktop.systemd1.UnitMasked", NotRunning),
        (FREEDESKTOP + "NoReply", NoAnswer),
        (FREEDESKTOP + "UnknownMethod", Mismatch),
    ],
)
def test_what_the_bus_says_is_told_apart(name: str, kind: type[GpumandError]) -> None:
    assert type(named(name, "so it is")) is kind


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (BusError("org.gpumand1.Error.InsufficientVram", "8 GiB are missing"), InsufficientVram),
        (BusTimeout("it did not answer within 10 s"), NoAnswer),
        (BusLost("the bus closed the connection"), BusUnavailable),
        (Mismatch("its status has no leases"), Mismatch),
    ],
)
def test_nothing_of_the_binding_comes_out(raised: Exception, kind: type[GpumandError]) -> None:
    with pytest.raises(GpumandError) as caught, translated():
        raise raised
    assert type(caught.value) is kind


def test_what_is_no_matter_of_the_bus_is_left_alone() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError
