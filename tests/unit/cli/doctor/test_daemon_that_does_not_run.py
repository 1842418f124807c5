"""The doctor's findings where the daemon does not run: each is there once, and its advice works when followed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.facts import Bus, Configuration
from gpumand.config.problems import ConfigProblem
from gpumand.host_setup.init_system import NoSystemd
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, unit


@pytest.mark.parametrize("state", [{"load_state": "masked"}, {"load_state": "not-found"}, {"active_state": "failed"}])
def test_a_daemon_that_cannot_start_is_one_finding_whose_advice_works(state: dict[str, Any]) -> None:
    stopped = replace(HEALTHY, bus=replace(HEALTHY.bus, is_running=False), status=None)
    assert only_finding(stopped, "daemon").fix == "sudo systemctl start gpumand"
    broken = replace(stopped, service=replace(unit("gpumand.service"), **state))
    assert findings(broken, "daemon") == []
    assert only_finding(broken, "service").fix


def test_a_daemon_that_failed_for_its_configuration_is_restarted_after_the_repair() -> None:
    mistake = ConfigProblem("/etc/gpumand/conf.d/a.toml", 3, 1, "consumers.x.unti", "unknown key", "unit")
    failed = replace(unit("gpumand.service"), active_state="failed")
    bus = replace(HEALTHY.bus, is_running=False)
    facts = replace(HEALTHY, config=Configuration(problems=(mistake,)), service=failed, bus=bus, status=None)
    fix = "edit /etc/gpumand/conf.d/a.toml, then: gpumanctl config-check && sudo systemctl restart gpumand"
    assert [one.fix for one in findings(facts, "configuration")] == [fix]
    assert findings(facts, "service")[0].why == "its configuration has errors, see below"


def test_without_systemd_the_missing_bus_is_not_to_be_started() -> None:
    missing = NoSystemd("systemd does not run here (process 1 is sh)", "install gpumand elsewhere")
    finding = only_finding(replace(HEALTHY, bus=Bus(error="no such file", no_systemd=missing), status=None), "bus")
    assert (finding.why, finding.fix) == (missing.what, missing.fix)
    booted = replace(HEALTHY, bus=Bus(error="no such file"), status=None)
    assert only_finding(booted, "bus").fix == "sudo systemctl start dbus.socket"
