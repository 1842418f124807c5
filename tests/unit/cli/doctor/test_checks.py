"""The doctor's checks on a healthy host and on faulty ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.checks import CHECKS, examine
from gpumand.cli.doctor.facts import Bus, Caller, Configuration, Driver, Facts, Node
from gpumand.cli.doctor.finding import Severity
from gpumand.cli.packages import Packages
from gpumand.cli.render.doctor import as_json, doctor_lines
from gpumand.cli.render.theme import Theme
from gpumand.config.problems import ConfigProblem
from gpumand.domain.consumer import Health
from gpumand.domain.unread_devices import UNCHECKED, UNCHECKED_WITH_TOTAL
from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, HTTP, STOP, findings, only_finding, settings, spec, status, unit


def test_every_check_applies_and_finds_nothing_on_a_healthy_host() -> None:
    assert examine(HEALTHY) == {name: [] for name in CHECKS}


def test_no_check_passes_when_nothing_can_be_read() -> None:
    facts = Facts(Caller(1000, "alice"), Bus(error="no such file"), config=Configuration(unreadable=("/etc/gpumand",)))
    assert [name for name, ones in examine(facts).items() if ones == []] == []
    assert severities(facts) == {Severity.PROBLEM, Severity.UNCHECKED, Severity.NOTE}


def severities(facts: Facts) -> set[Severity]:
    return {one.severity for ones in examine(facts).values() for one in ones or ()}


def bus(**changes: Any) -> Facts:
    return replace(HEALTHY, bus=replace(HEALTHY.bus, **changes))


def stopped_daemon(facts: Facts) -> Facts:
    return replace(facts, status=None, bus=replace(facts.bus, is_running=False, owner_uid=None))


def test_a_stopped_daemon_comes_with_the_start_command() -> None:
    assert only_finding(stopped_daemon(HEALTHY), "daemon").fix == "sudo systemctl start gpumand"
    assert "next D-Bus call" in only_finding(stopped_daemon(HEALTHY), "daemon").why
    assert only_finding(stopped_daemon(bus(is_activatable=False)), "daemon").fix == "sudo apt-get install gpumand"
    from_file = Packages(installed={"gpumand": "0.1.0-1"}, downloadable=frozenset())
    absent = replace(stopped_daemon(bus(is_activatable=False)), packages=from_file)
    assert only_finding(absent, "daemon").fix.startswith("sudo apt-get install ./gpumand_0.1.0-1_all.deb   # no repo")
    of_user = replace(absent, user=True, packages=Packages(downloadable=frozenset()))
    assert only_finding(of_user, "daemon").fix == "gpumanctl --user setup"
    private = stopped_daemon(bus(kind="unix:path=/tmp/bus"))
    assert findings(private, "daemon")[0].fix == "gpumand --bus-address 'unix:path=/tmp/bus'"
    own = replace(stopped_daemon(bus(kind="session")), user=True)
    assert findings(own, "daemon")[0].fix == "systemctl --user start gpumand"


def test_commands_for_root_have_no_sudo() -> None:
    assert (
        only_finding(replace(stopped_daemon(HEALTHY), caller=Caller(0, "root")), "daemon").fix
        == "systemctl start gpumand"
    )


def test_a_silent_daemon_and_a_refusing_bus_are_problems() -> None:
    mute = replace(HEALTHY, status=None, status_error="no answer")
    assert only_finding(mute, "daemon").what == "gpumand does not answer: no answer"
    denied = replace(bus(denied="Rejected send message"), status=None)
    assert only_finding(denied, "bus").severity is Severity.PROBLEM


@pytest.mark.parametrize("uid", [0, 990])
def test_root_and_the_daemon_user_may_own_the_name(uid: int) -> None:
    assert findings(bus(owner_uid=uid), "name owner") == []


def test_another_name_owner_is_a_problem_on_the_system_bus_only() -> None:
    assert only_finding(bus(owner_uid=1000), "name owner").fix == "busctl status org.gpumand1"
    assert findings(bus(owner_uid=1000, kind="session"), "name owner") == []


@pytest.mark.parametrize(
    ("changes", "severity", "fix"),
    [
        (
            {"load_state": "masked"},
            "problem",
            "sudo systemctl unmask gpumand.service && sudo systemctl start gpumand.service",
        ),
        ({"load_state": "not-found"}, "problem", "sudo apt-get install gpumand"),
        (
            {"active_state": "failed", "result": "exit-code"},
            "problem",
            "sudo journalctl -u gpumand -n 20   # the cause; after the repair: sudo systemctl restart gpumand",
        ),
        ({"need_daemon_reload": True}, "warning", "sudo systemctl daemon-reload"),
    ],
)
def test_faults_of_the_service_have_a_severity_and_a_fix(changes: dict[str, Any], severity: str, fix: str) -> None:
    finding = only_finding(replace(HEALTHY, service=replace(unit("gpumand.service"), **changes)), "service")
    assert (finding.severity, finding.fix) == (severity, fix)


def test_a_version_mismatch_and_a_degraded_daemon_are_found() -> None:
    assert (
        only_finding(replace(HEALTHY, status=status(version="0.0.9")), "version").fix
        == "sudo systemctl restart gpumand"
    )
    blind = replace(HEALTHY, status=status(degraded="nvml-hangs: no answer"))
    assert only_finding(blind, "readings").severity is Severity.PROBLEM


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (
            "device 0: gpu-lost: the GPU has fallen off the bus",
            "sudo journalctl -k -g NVRM   # the cause; a GPU off the bus seldom works before a reboot",
        ),
        (
            "device 1: gpu-reset-required: the GPU must be reset before it can be used again",
            "sudo gpumanctl gpu release -- nvidia-smi --gpu-reset --id=1",
        ),
        (
            "device 203: gpu-reset-required: the GPU must be reset before it can be used again",
            "sudo gpumanctl gpu release -- nvidia-smi --gpu-reset --id=1",
        ),
        (f"no-source: no card; {UNCHECKED}", "set total_mib in [gpu] to the size of your GPU, then: gpumanctl reload"),
        (f"no-source: no card; {UNCHECKED_WITH_TOTAL}", ""),
    ],
)
def test_readings_that_fail_come_with_the_next_step(error: str, fix: str) -> None:
    finding = only_finding(replace(HEALTHY, status=status(degraded=error)), "readings")
    assert finding.fix == fix
    assert not finding.why or finding.why not in finding.what


def test_a_driver_fault_seen_by_daemon_and_doctor_is_reported_once_with_its_fix() -> None:
    error = "driver-unreadable: NVIDIA's driver is loaded, but cannot be read: libnvidia-ml.so.1 is not installed"
    facts = replace(HEALTHY, status=status(degraded=error), driver=Driver(error=error))
    assert findings(facts, "readings") == []
    assert only_finding(facts, "driver").fix == "sudo apt-get install libnvidia-ml1"


def test_library_to_install_has_the_version_of_the_loaded_module() -> None:
    """The library of another version would replace a working driver, and then fail with driver-mismatch."""
    error = "driver-unreadable: NVIDIA's driver is loaded, but cannot be read: libnvidia-ml.so.1 is not installed"
    facts = replace(HEALTHY, driver=Driver(error=error, kernel_version="580.95.05"))
    fix = findings(facts, "driver")[0].fix
    assert fix == "apt-cache policy libnvidia-ml1 libnvidia-compute-580   # install the one that has version 580.95.05"


def test_configuration_errors_come_with_file_and_line() -> None:
    mistake = ConfigProblem("/etc/gpumand/conf.d/a.toml", 3, 1, "consumers.x.unti", "unknown key", "unit")
    facts = replace(HEALTHY, config=Configuration(problems=(mistake,)))
    finding = only_finding(facts, "configuration")
    assert finding.what == "/etc/gpumand/conf.d/a.toml:3: consumers.x.unti: unknown key (did you mean unit?)"
    assert finding.fix == "edit /etc/gpumand/conf.d/a.toml, then: gpumanctl config-check"


def test_unreadable_files_leave_the_checks_that_need_them_unchecked() -> None:
    facts = replace(HEALTHY, config=Configuration(unreadable=("/etc/gpumand/gpumand.toml",)))
    assert severities(facts) == {Severity.UNCHECKED}
    assert {name for name, ones in examine(facts).items() if ones} == {"configuration", "coexistence", "routes"}


def test_an_empty_configuration_comes_with_the_command_that_adds_services() -> None:
    # A file of "init" may lack sizes, so that the daemon would not start with it; and it could be written only once.
    finding = only_finding(replace(HEALTHY, config=settings(), status=status(consumers=[])), "configuration")
    assert finding.fix == "sudo gpumanctl setup"
    theirs = replace(HEALTHY, user=True, config=settings(), status=status(consumers=[]))
    assert only_finding(theirs, "configuration").fix == "gpumanctl --user setup"


def test_files_changed_after_the_daemon_read_them_need_a_reload() -> None:
    newer = replace(HEALTHY.config, changed_usec=samples.NOW + 5_000_000)
    assert only_finding(replace(HEALTHY, config=newer), "reload").fix == "sudo gpumanctl reload"
    same_second = replace(HEALTHY.config, changed_usec=samples.NOW + 500_000)
    assert findings(replace(HEALTHY, config=same_second), "reload") == []


def test_consumers_that_are_never_evicted_have_to_fit_together() -> None:
    pinned = samples.consumer("a", vram_resident_mib=15000, pinned=True)
    managed = samples.consumer("b", vram_resident_mib=12000, vram_managed=True)
    finding = only_finding(replace(HEALTHY, status=status(consumers=[pinned, managed])), "room")
    assert finding.what == "a and b are never evicted and need 26.4 GiB together, but the device has 24.0 GiB"
    assert finding.fix == "sudo gpumanctl unpin a"
    huge = samples.consumer("c", vram_resident_mib=30000)
    assert (
        only_finding(replace(HEALTHY, status=status(consumers=[huge])), "room").why
        == "requests for it are always refused"
    )
    snug = samples.consumer("d", vram_resident_mib=24564 - 255)
    assert (
        only_finding(replace(HEALTHY, status=status(consumers=[snug])), "room").why
        == "requests for it are always refused"
    )
    assert (
        findings(replace(HEALTHY, status=status(consumers=[{**snug, "vram_resident_mib": 24564 - 256}])), "room") == []
    )


def test_one_sided_coexistence_comes_with_its_effect_and_the_missing_line() -> None:
    kind, cold = spec("mvoice", can_coexist_with=frozenset({"comfyui"})), spec("comfyui")
    finding = only_finding(replace(HEALTHY, config=settings(kind, cold)), "coexistence")
    assert finding.why == "loading mvoice never evicts comfyui, while loading comfyui may evict mvoice"
    assert finding.fix == '[consumers.comfyui] can_coexist_with = ["mvoice"]'
    both = replace(cold, can_coexist_with=frozenset({"mvoice"}))
    assert findings(replace(HEALTHY, config=settings(kind, both)), "coexistence") == []
    never_evicted = replace(kind, pinned=True)
    assert findings(replace(HEALTHY, config=settings(never_evicted, cold)), "coexistence") == []


def test_missing_polkit_and_missing_rules_are_problems() -> None:
    assert only_finding(bus(has_polkit=False), "polkit").fix == "sudo apt-get install polkitd"
    rules = replace(HEALTHY, missing_files=("/usr/share/polkit-1/rules.d/org.gpumand1.rules",))
    assert only_finding(rules, "polkit").severity is Severity.PROBLEM
    assert examine(bus(kind="session"))["polkit"] is None


def test_a_caller_outside_the_group_gets_a_note_with_the_fix() -> None:
    not_listed = only_finding(replace(HEALTHY, caller=Caller(1000, "alice", group_exists=True)), "group")
    assert (not_listed.severity, not_listed.fix) == (Severity.NOTE, "sudo gpasswd --add alice gpumand")
    without_group = only_finding(replace(HEALTHY, caller=Caller(1000, "alice")), "group")
    assert without_group.fix == "sudo groupadd --system gpumand && sudo gpasswd --add alice gpumand"
    listed = only_finding(replace(HEALTHY, caller=Caller(1000, "alice", is_listed=True, group_exists=True)), "group")
    assert listed.fix == "log in again, or: newgrp gpumand"
    assert findings(replace(HEALTHY, caller=Caller(0, "root")), "group") == []


def driver(**changes: Any) -> Facts:
    assert HEALTHY.driver is not None
    return replace(HEALTHY, driver=replace(HEALTHY.driver, **changes))


def test_faults_of_the_driver_have_a_fix() -> None:
    missing = only_finding(driver(error="nvml-library-missing: it is not installed", kernel_version=""), "driver")
    assert missing.fix == "sudo apt-get install libnvidia-ml1"
    mismatch = only_finding(driver(error="driver-mismatch: versions differ", library_version="570.1.2"), "driver")
    assert mismatch.what == "driver-mismatch: versions differ (module 550.54.14, library 570.1.2)"
    upgraded = only_finding(driver(library_version="570.1.2"), "driver")
    assert (upgraded.severity, upgraded.fix) == (Severity.WARNING, "sudo reboot")
    assert findings(driver(library_version=""), "driver") == []


def test_missing_and_inaccessible_device_nodes_have_a_fix() -> None:
    assert "nvidia-modprobe" in only_finding(driver(nodes=(Node("/dev/nvidia0", 0o666, "root"),)), "device nodes").fix
    for_group = (Node("/dev/nvidia0", 0o660, "video"), Node("/dev/nvidiactl", 0o666, "root"))
    assert "SupplementaryGroups=video" in only_finding(driver(nodes=for_group), "device nodes").fix
    for_root = (Node("/dev/nvidiactl", 0o600, "root"),)
    assert only_finding(driver(nodes=for_root), "device nodes").severity is Severity.PROBLEM
    no_module = driver(kernel_version="", library_version="", nodes=())
    assert examine(no_module)["device nodes"] is None


def with_unit(**changes: Any) -> Facts:
    units = {**HEALTHY.units, "mvoice.service": unit("mvoice.service", **changes)}
    return replace(HEALTHY, units=units)


@pytest.mark.parametrize(
    ("changes", "check", "severity", "fix"),
    [
        ({"load_state": "not-found"}, "units", "problem", "systemctl list-unit-files '*.service'"),
        ({"load_state": "masked"}, "units", "problem", "sudo systemctl unmask mvoice.service"),
        ({"load_state": "bad-setting"}, "units", "problem", "systemd-analyze verify mvoice.service"),
        ({"active_state": "failed", "result": "oom-kill"}, "units", "warning", "journalctl -u mvoice.service -n 20"),
        ({"need_daemon_reload": True}, "units", "warning", "sudo systemctl daemon-reload"),
        ({"id": "tts.service"}, "unit names", "problem", '[consumers.mvoice] unit = "tts.service"'),
        ({"fragment_path": ""}, "unit names", "problem", "sudo systemctl edit --full --force mvoice.service"),
        ({"upheld_by": ("ai.target",)}, "restarts", "problem", "sudo systemctl edit ai.target"),
        ({"triggered_by": ("mvoice.socket",)}, "restarts", "note", ""),
    ],
)
def test_faults_of_units_have_a_severity_and_a_fix(
    changes: dict[str, Any], check: str, severity: str, fix: str
) -> None:
    finding = only_finding(with_unit(**changes), check)
    assert (finding.severity, finding.fix) == (severity, fix)
    assert finding.what.startswith("mvoice: ")


def test_restart_always_is_a_note_and_a_warning_after_failed_evictions_by_route() -> None:
    facts = with_unit(restart="always")
    noted = only_finding(facts, "restarts")
    assert noted.severity is Severity.NOTE
    assert noted.why.startswith(
        "systemd does not restart a unit that gpumand stops, but if the unload route ends the process"
    )
    failed = {"consumer": "mvoice", "method": "http", "kind": "eviction-failed"}
    fights = only_finding(replace(facts, failed_evictions=(failed, {**failed, "consumer": "comfyui"})), "restarts")
    assert (fights.severity, fights.why[:10]) == (Severity.WARNING, "1 eviction")
    assert fights.fix == "sudo systemctl edit mvoice.service   # [Service] Restart=on-failure"


def test_restart_settings_that_do_not_undo_evictions_are_not_reported() -> None:
    by_stop = replace(with_unit(restart="always"), config=settings(spec("mvoice", evict=(STOP,)), spec("comfyui")))
    assert findings(by_stop, "restarts") == []
    assert findings(with_unit(restart="on-failure"), "restarts") == []


def test_a_kill_mode_that_leaves_processes_matters_only_for_unit_stop() -> None:
    assert "KillMode=mixed" in only_finding(with_unit(kill_mode="process"), "kill mode").fix
    by_route = replace(with_unit(kill_mode="process"), config=settings(spec("mvoice", evict=(HTTP,)), spec("comfyui")))
    assert findings(by_route, "kill mode") == []


def test_consumers_that_load_at_boot_are_a_note_and_a_warning_when_they_do_not_fit() -> None:
    loads = {"load": None, "unload": None, "evict": (STOP,)}
    facts = replace(with_unit(unit_file_state="enabled"), config=settings(spec("mvoice", **loads), spec("comfyui")))
    finding = only_finding(facts, "boot")
    assert (finding.severity, finding.fix) == (Severity.NOTE, "sudo systemctl disable mvoice.service")
    assert finding.what == "mvoice starts at boot and takes 2.8 GiB without a request"
    assert finding.why.endswith("disabled, it is started on demand")
    too_much = spec("mvoice", **loads)
    too_much = replace(too_much, vram_resident_mib=30000)
    warned = only_finding(replace(facts, config=settings(too_much, spec("comfyui"))), "boot")
    assert (warned.severity, warned.what) == (Severity.WARNING, "mvoice starts at boot and loads its model")
    assert warned.why == "it needs 29.3 GiB of 24.0 GiB, so that it fails at every boot"
    assert findings(with_unit(unit_file_state="enabled"), "boot") == []


def test_findings_about_several_consumers_agree_in_number() -> None:
    loads = {"load": None, "unload": None, "evict": (STOP,)}
    enabled = {name: unit(name, unit_file_state="enabled") for name in ("mvoice.service", "comfyui.service")}
    facts = replace(HEALTHY, units=enabled, config=settings(spec("mvoice", **loads), spec("comfyui", **loads)))
    assert only_finding(facts, "boot").what == "mvoice and comfyui start at boot and take 5.6 GiB without a request"
    large = [replace(spec(name, **loads), vram_resident_mib=20000) for name in ("mvoice", "comfyui")]
    warned = only_finding(replace(facts, config=settings(*large)), "boot")
    assert warned.what == "mvoice and comfyui start at boot and load their models"
    assert warned.why == "together they need 39.1 GiB of 24.0 GiB, so that some of them fail at every boot"
    held = only_finding(with_unit(upheld_by=("a.target", "b.target")), "restarts")
    assert held.what == "mvoice: a.target and b.target keep mvoice.service running (Upholds=)"


def test_one_consumer_that_is_never_evicted_and_does_not_fit_is_described_in_the_singular() -> None:
    pinned = samples.consumer("mvoice", vram_resident_mib=30000, pinned=True)
    facts = replace(HEALTHY, status=status(consumers=[pinned]))
    assert [one.what for one in findings(facts, "room")] == [
        "mvoice needs 29.5 GiB with the cushion, but the largest device has 24.0 GiB",
        "mvoice is never evicted and needs 29.3 GiB, but the device has 24.0 GiB",
    ]
    two = [samples.device(), samples.device(index=1)]
    both = [samples.consumer(name, vram_resident_mib=24000, vram_managed=True) for name in ("a", "b", "c")]
    several = replace(HEALTHY, status=status(consumers=both, devices=two))
    (finding,) = findings(several, "room")
    assert finding.what == "a, b and c are never evicted and need 70.3 GiB together, but the devices have 48.0 GiB"


def test_units_are_unchecked_when_systemd_cannot_be_queried() -> None:
    facts = replace(HEALTHY, units={}, service=None, units_error="systemd is not on this bus")
    assert severities(facts) == {Severity.UNCHECKED}
    assert examine(facts)["kill mode"] is None


def with_failing_route(**changes: Any) -> Facts:
    return replace(HEALTHY, routes={"mvoice": Health(False, **({"error": "health route: timed out"} | changes))})


def test_failing_health_routes_are_rated_by_the_state_of_the_unit() -> None:
    assert only_finding(with_failing_route(), "routes").fix == "curl -sv http://127.0.0.1:9200/health"
    assert only_finding(with_failing_route(refused=True), "routes").severity is Severity.WARNING
    stopped = replace(
        with_failing_route(refused=True),
        units={**HEALTHY.units, "mvoice.service": unit("mvoice.service", active_state="inactive")},
    )
    assert findings(stopped, "routes") == []
    no_unit = replace(with_failing_route(refused=True), config=settings(spec("mvoice", unit=""), spec("comfyui")))
    assert only_finding(no_unit, "routes").severity is Severity.NOTE


def test_a_consumer_with_an_error_is_a_finding() -> None:
    entries = [samples.consumer("my voice", "failed", error="it did not start")]
    finding = only_finding(replace(HEALTHY, status=status(consumers=entries)), "consumers")
    assert (finding.what, finding.fix) == ("my voice is failed: it did not start", "gpumanctl show 'my voice'")


def test_the_report_lists_the_worst_findings_first_with_their_fixes() -> None:
    facts = replace(
        with_unit(restart="always", kill_mode="none"), status=status(version="0.0.9"), missing_files=("/x",)
    )
    lines = [line.plain for line in doctor_lines(examine(facts), Theme(width=100))]
    assert lines[0] == "● found: 1 problem, 2 warnings, 1 note"
    heads = [line.partition(":")[0] for line in lines if line.partition(":")[0] in ("problem", "warning", "note")]
    assert heads == ["problem", "warning", "warning", "note"]
    assert "  → sudo systemctl restart gpumand" in lines
    assert all(line.isprintable() for line in lines)


def test_a_fix_is_never_wrapped() -> None:
    facts = replace(HEALTHY, caller=Caller(1000, "alice" * 20))
    lines = [line.plain for line in doctor_lines(examine(facts), Theme(width=60))]
    assert lines[0] == "● no problems found: 1 note"
    assert any(line.endswith(f"gpasswd --add {'alice' * 20} gpumand") for line in lines)


def test_json_output_has_the_same_findings() -> None:
    document = as_json(examine(bus(has_polkit=False)), is_healthy=False)
    (finding,) = document["findings"]
    assert list(finding) == ["check", "severity", "what", "why", "mend"]
    assert (document["well"], finding["check"], finding["severity"]) == (False, "polkit", "problem")
    assert "bus" in document["good"]
    assert document["skipped"] == []
