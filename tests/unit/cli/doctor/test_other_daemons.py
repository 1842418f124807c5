"""The check for other gpumand daemons, and which daemon the caller can stop."""

from __future__ import annotations

from dataclasses import replace

from gpumand.cli.doctor.facts import Bus
from gpumand.cli.doctor.finding import Severity
from gpumand.discovery.daemons import OtherDaemon
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, settings, spec

UNITS = "disable --now gpumand.socket gpumand.service"


def test_root_gets_the_command_that_stops_a_users_daemon() -> None:
    finding = only_finding(replace(HEALTHY, other_daemons=(OtherDaemon(77, "alice"),)), "other daemons")
    assert finding.what == "another gpumand runs on this host (the daemon of user alice, pid 77)"
    assert (finding.severity, finding.fix) == (Severity.WARNING, f"sudo systemctl --user --machine=alice@ {UNITS}")


def test_a_user_gets_the_command_that_stops_the_own_daemon() -> None:
    own = replace(
        HEALTHY, user=True, bus=Bus("session", is_running=True), other_daemons=(OtherDaemon(1), OtherDaemon(7, "bob"))
    )
    assert [one.fix for one in findings(own, "other daemons")] == [f"systemctl --user {UNITS}"] * 2


def test_another_daemon_is_only_a_note_when_all_consumers_have_fixed_devices() -> None:
    apart = replace(HEALTHY, config=settings(spec("mvoice", devices=("1",))), other_daemons=(OtherDaemon(77, "alice"),))
    (finding,) = findings(apart, "other daemons")
    assert finding.severity is Severity.NOTE
