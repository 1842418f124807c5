"""A second daemon on the host is told of, with who can stop which."""

from __future__ import annotations

from dataclasses import replace

from gpumand.cli.doctor.facts import Bus
from gpumand.cli.doctor.finding import Severity
from gpumand.discovery.daemons import OtherDaemon
from tests.unit.cli.doctor.good import GOOD, found, only, settings, spec

UNITS = "disable --now gpumand.socket gpumand.service"


def test_the_administrator_hears_of_a_users_and_how_to_stop_it() -> None:
    finding = only(replace(GOOD, others=(OtherDaemon(77, "alice"),)), "other daemons")
    assert finding.what == "another gpumand runs on this host (that of the user alice, pid 77)"
    assert (finding.severity, finding.mend) == (Severity.WARNING, f"sudo systemctl --user --machine=alice@ {UNITS}")


def test_a_user_hears_of_the_systems_and_can_stop_the_own() -> None:
    own = replace(GOOD, user=True, bus=Bus("session", is_running=True), others=(OtherDaemon(1), OtherDaemon(7, "bob")))
    assert [one.mend for one in found(own, "other daemons")] == [f"systemctl --user {UNITS}"] * 2


def test_where_all_have_devices_of_their_own_it_may_be_meant_so() -> None:
    apart = replace(GOOD, config=settings(spec("mvoice", devices=("1",))), others=(OtherDaemon(77, "alice"),))
    (finding,) = found(apart, "other daemons")
    assert finding.severity is Severity.NOTE
