"""Every check on facts that are as they should be, and on facts that are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.checks import CHECKS, examine
from gpumand.cli.doctor.facts import Bus, Caller, Configuration, Driver, Facts, Node
from gpumand.cli.doctor.finding import Severity
from gpumand.cli.render.doctor import as_json, doctor_lines
from gpumand.cli.render.theme import Theme
from gpumand.config.problems import ConfigProblem
from gpumand.domain.consumer import Health
from tests.unit.cli import samples
from tests.unit.cli.doctor.good import GOOD, HTTP, STOP, found, only, settings, spec, status, unit


def test_where_all_is_well_every_check_looks_and_finds_nothing() -> None:
    assert examine(GOOD) == {name: [] for name in CHECKS}


def test_where_nothing_can_be_seen_no_check_says_that_it_is_good() -> None:
    facts = Facts(Caller(1000, "alice"), Bus(error="no such file"), config=Configuration(unreadable=("/etc/gpumand",)))
    assert [name for name, ones in examine(facts).items() if ones == []] == []
    assert only_severities(facts) == {Severity.PROBLEM, Severity.UNCHECKED, Severity.NOTE}


def only_severities(facts: Facts) -> set[Severity]:
    return {one.severity for ones in examine(facts).values() for one in ones or ()}


def bus(**changes: Any) -> Facts:
    return replace(GOOD, bus=replace(GOOD.bus, **changes))


def down(facts: Facts) -> Facts:
    return replace(facts, status=None, bus=replace(facts.bus, is_running=False, owner_uid=None))


def test_a_daemon_that_is_down_is_told_how_to_be_started() -> None:
    assert only(down(GOOD), "daemon").mend == "sudo systemctl start gpumand"
    assert "next call on the bus" in only(down(GOOD), "daemon").why
    assert only(down(bus(is_activatable=False)), "daemon").mend == "sudo apt-get install gpumand"
    private = down(bus(kind="unix:path=/tmp/bus"))
    assert found(private, "daemon")[0].mend == "gpumand --bus-address 'unix:path=/tmp/bus'"
    own = replace(down(bus(kind="session")), user=True)
    assert found(own, "daemon")[0].mend == "systemctl --user start gpumand"


def test_root_is_not_told_to_use_sudo() -> None:
    assert only(replace(down(GOOD), caller=Caller(0, "root")), "daemon").mend == "systemctl start gpumand"


def test_a_daemon_that_does_not_answer_and_a_bus_that_does_not_let_us() -> None:
    mute = replace(GOOD, status=None, status_error="no answer")
    assert only(mute, "daemon").what == "gpumand does not answer: no answer"
    denied = replace(bus(denied="Rejected send message"), status=None)
    assert only(denied, "bus").severity is Severity.PROBLEM


@pytest.mark.parametrize("uid", [0, 990])
def test_root_and_its_own_user_may_own_the_name(uid: int) -> None:
    assert found(bus(owner_uid=uid), "owner of the name") == []


def test_anybody_else_who_owns_the_name_is_a_problem_on_the_system_bus_only() -> None:
    assert only(bus(owner_uid=1000), "owner of the name").mend == "busctl status org.gpumand1"
    assert found(bus(owner_uid=1000, kind="session"), "owner of the name") == []


@pytest.mark.parametrize(
    ("changes", "severity", "mend"),
    [
        ({"load_state": "masked"}, "problem", "sudo systemctl unmask gpumand.service"),
        ({"load_state": "not-found"}, "problem", "sudo apt-get install gpumand"),
        ({"active_state": "failed", "result": "exit-code"}, "problem", "journalctl -u gpumand -n 20"),
        ({"need_daemon_reload": True}, "warning", "sudo systemctl daemon-reload"),
    ],
)
def test_the_service(changes: dict[str, Any], severity: str, mend: str) -> None:
    finding = only(replace(GOOD, service=replace(unit("gpumand.service"), **changes)), "service")
    assert (finding.severity, finding.mend) == (severity, mend)


def test_another_version_and_a_degraded_daemon() -> None:
    assert only(replace(GOOD, status=status(version="0.0.9")), "version").mend == "sudo systemctl restart gpumand"
    blind = replace(GOOD, status=status(degraded="nvml-hangs: no answer"))
    assert only(blind, "figures").severity is Severity.PROBLEM


def test_what_the_driver_says_to_both_is_told_once_and_with_what_mends_it() -> None:
    error = "nvml-module-missing: there is no Python module pynvml"
    facts = replace(GOOD, status=status(degraded=error), driver=Driver(error=error))
    assert found(facts, "figures") == []
    assert only(facts, "driver").mend == "sudo apt-get install python3-pynvml"


def test_mistakes_in_files_are_told_with_their_place() -> None:
    mistake = ConfigProblem("/etc/gpumand/conf.d/a.toml", 3, 1, "consumers.x.unti", "unknown key", "unit")
    facts = replace(GOOD, config=Configuration(problems=(mistake,)))
    finding = only(facts, "configuration")
    assert finding.what == "/etc/gpumand/conf.d/a.toml:3: consumers.x.unti: unknown key (did you mean unit?)"
    assert finding.mend == "edit /etc/gpumand/conf.d/a.toml, then: gpumanctl config-check"


def test_files_that_may_not_be_read_are_unchecked_and_what_only_they_say_too() -> None:
    facts = replace(GOOD, config=Configuration(unreadable=("/etc/gpumand/gpumand.toml",)))
    assert only_severities(facts) == {Severity.UNCHECKED}
    assert {name for name, ones in examine(facts).items() if ones} == {"configuration", "coexistence", "routes"}


def test_an_empty_configuration_is_told_what_to_do() -> None:
    finding = only(replace(GOOD, config=settings(), status=status(consumers=[])), "configuration")
    assert finding.mend == "sudo gpumanctl init -o /etc/gpumand/conf.d/found.toml"
    theirs = replace(GOOD, user=True, config=settings(), status=status(consumers=[]))
    conf_d = "~/.config/gpumand/conf.d"
    assert only(theirs, "configuration").mend == f"mkdir -p {conf_d} && gpumanctl --user init -o {conf_d}/found.toml"


def test_files_changed_after_the_daemon_read_them_need_a_reload() -> None:
    newer = replace(GOOD.config, changed_usec=samples.NOW + 5_000_000)
    assert only(replace(GOOD, config=newer), "reload").mend == "sudo gpumanctl reload"
    same_second = replace(GOOD.config, changed_usec=samples.NOW + 500_000)
    assert found(replace(GOOD, config=same_second), "reload") == []


def test_what_is_never_evicted_has_to_fit() -> None:
    pinned = samples.consumer("a", vram_resident_mib=15000, pinned=True)
    managed = samples.consumer("b", vram_resident_mib=12000, vram_managed=True)
    finding = only(replace(GOOD, status=status(consumers=[pinned, managed])), "room")
    assert finding.what == "a and b are never evicted, and need 26.4 GiB together; there are 24.0 GiB"
    assert finding.mend == "sudo gpumanctl unpin a"
    huge = samples.consumer("c", vram_resident_mib=30000)
    assert only(replace(GOOD, status=status(consumers=[huge])), "room").why == "it will never be granted"
    snug = samples.consumer("d", vram_resident_mib=24564 - 255)
    assert only(replace(GOOD, status=status(consumers=[snug])), "room").why == "it will never be granted"
    assert found(replace(GOOD, status=status(consumers=[{**snug, "vram_resident_mib": 24564 - 256}])), "room") == []


def test_one_sided_coexistence_says_whom_it_hurts_and_the_line_to_write() -> None:
    kind, cold = spec("mvoice", can_coexist_with=frozenset({"comfyui"})), spec("comfyui")
    finding = only(replace(GOOD, config=settings(kind, cold)), "coexistence")
    assert finding.why == "loading mvoice never evicts comfyui, while loading comfyui may evict mvoice"
    assert finding.mend == '[consumers.comfyui] can_coexist_with = ["mvoice"]'
    both = replace(cold, can_coexist_with=frozenset({"mvoice"}))
    assert found(replace(GOOD, config=settings(kind, both)), "coexistence") == []
    never_evicted = replace(kind, pinned=True)
    assert found(replace(GOOD, config=settings(never_evicted, cold)), "coexistence") == []


def test_polkit_missing_and_its_files_missing() -> None:
    assert only(bus(is_polkit_there=False), "polkit").mend == "sudo apt-get install polkitd"
    rules = replace(GOOD, missing_files=("/usr/share/polkit-1/rules.d/org.gpumand1.rules",))
    assert only(rules, "polkit").severity is Severity.PROBLEM
    assert examine(bus(kind="session"))["polkit"] is None


def test_who_is_not_in_the_group_is_told_without_being_wrong() -> None:
    stranger = only(replace(GOOD, caller=Caller(1000, "alice", group_exists=True)), "group")
    assert (stranger.severity, stranger.mend) == (Severity.NOTE, "sudo gpasswd --add alice gpumand")
    nobody = only(replace(GOOD, caller=Caller(1000, "alice")), "group")
    assert nobody.mend == "sudo groupadd --system gpumand && sudo gpasswd --add alice gpumand"
    listed = only(replace(GOOD, caller=Caller(1000, "alice", is_listed=True, group_exists=True)), "group")
    assert listed.mend == "log in anew, or: newgrp gpumand"
    assert found(replace(GOOD, caller=Caller(0, "root")), "group") == []


def driver(**changes: Any) -> Facts:
    assert GOOD.driver is not None
    return replace(GOOD, driver=replace(GOOD.driver, **changes))


def test_the_driver() -> None:
    missing = only(driver(error="nvml-library-missing: it is not installed"), "driver")
    assert missing.mend == "sudo apt-get install libnvidia-ml1"
    mismatch = only(driver(error="driver-mismatch: versions differ", library_version="570.1.2"), "driver")
    assert mismatch.what == "driver-mismatch: versions differ (module 550.54.14, library 570.1.2)"
    upgraded = only(driver(library_version="570.1.2"), "driver")
    assert (upgraded.severity, upgraded.mend) == (Severity.WARNING, "sudo reboot")
    assert found(driver(library_version=""), "driver") == []


def test_device_nodes() -> None:
    assert "nvidia-modprobe" in only(driver(nodes=(Node("/dev/nvidia0", 0o666, "root"),)), "device nodes").mend
    for_group = (Node("/dev/nvidia0", 0o660, "video"), Node("/dev/nvidiactl", 0o666, "root"))
    assert "SupplementaryGroups=video" in only(driver(nodes=for_group), "device nodes").mend
    for_root = (Node("/dev/nvidiactl", 0o600, "root"),)
    assert only(driver(nodes=for_root), "device nodes").severity is Severity.PROBLEM
    no_module = driver(kernel_version="", library_version="", nodes=())
    assert examine(no_module)["device nodes"] is None


def with_unit(**changes: Any) -> Facts:
    units = {**GOOD.units, "mvoice.service": unit("mvoice.service", **changes)}
    return replace(GOOD, units=units)


@pytest.mark.parametrize(
    ("changes", "check", "severity", "mend"),
    [
        ({"load_state": "not-found"}, "units", "problem", "systemctl list-unit-files '*.service'"),
        ({"load_state": "masked"}, "units", "problem", "sudo systemctl unmask mvoice.service"),
        ({"load_state": "bad-setting"}, "units", "problem", "systemd-analyze verify mvoice.service"),
        ({"active_state": "failed", "result": "oom-kill"}, "units", "warning", "journalctl -u mvoice.service -n 20"),
        ({"need_daemon_reload": True}, "units", "warning", "sudo systemctl daemon-reload"),
        ({"id": "tts.service"}, "names of units", "problem", '[consumers.mvoice] unit = "tts.service"'),
        ({"fragment_path": ""}, "names of units", "problem", "sudo systemctl edit --full --force mvoice.service"),
        ({"upheld_by": ("ai.target",)}, "restarts", "problem", "systemctl edit ai.target"),
        ({"triggered_by": ("mvoice.socket",)}, "restarts", "note", ""),
    ],
)
def test_units(changes: dict[str, Any], check: str, severity: str, mend: str) -> None:
    finding = only(with_unit(**changes), check)
    assert (finding.severity, finding.mend) == (severity, mend)
    assert finding.what.startswith("mvoice: ")


def test_restart_always_is_noted_and_a_warning_where_evictions_by_the_route_failed() -> None:
    facts = with_unit(restart="always")
    noted = only(facts, "restarts")
    assert noted.severity is Severity.NOTE
    assert noted.why.startswith("systemd does not restart what gpumand stops, but if the unload route ends the process")
    failed = {"consumer": "mvoice", "method": "http", "kind": "eviction-failed"}
    fights = only(replace(facts, failed_evictions=(failed, {**failed, "consumer": "comfyui"})), "restarts")
    assert (fights.severity, fights.why[:10]) == (Severity.WARNING, "1 eviction")
    assert fights.mend == "sudo systemctl edit mvoice.service   # [Service] Restart=on-failure"


def test_restart_always_is_nothing_against_a_stop_and_on_failure_nothing_against_a_route() -> None:
    by_stop = replace(with_unit(restart="always"), config=settings(spec("mvoice", evict=(STOP,)), spec("comfyui")))
    assert found(by_stop, "restarts") == []
    assert found(with_unit(restart="on-failure"), "restarts") == []


def test_kill_mode_that_leaves_processes() -> None:
    assert "KillMode=mixed" in only(with_unit(kill_mode="process"), "kill mode").mend
    by_route = replace(with_unit(kill_mode="process"), config=settings(spec("mvoice", evict=(HTTP,)), spec("comfyui")))
    assert found(by_route, "kill mode") == []


def test_what_starts_at_boot_with_its_model() -> None:
    loads = {"load": None, "unload": None, "evict": (STOP,)}
    facts = replace(with_unit(unit_file_state="enabled"), config=settings(spec("mvoice", **loads), spec("comfyui")))
    finding = only(facts, "boot")
    assert (finding.severity, finding.mend) == (Severity.NOTE, "sudo systemctl disable mvoice.service")
    too_much = spec("mvoice", **loads)
    too_much = replace(too_much, vram_resident_mib=30000)
    assert only(replace(facts, config=settings(too_much, spec("comfyui"))), "boot").severity is Severity.WARNING
    assert found(with_unit(unit_file_state="enabled"), "boot") == []


def test_units_that_cannot_be_asked_about_are_unchecked() -> None:
    facts = replace(GOOD, units={}, service=None, units_error="systemd is not on this bus")
    assert only_severities(facts) == {Severity.UNCHECKED}
    assert examine(facts)["kill mode"] is None


def silent(**changes: Any) -> Facts:
    return replace(GOOD, routes={"mvoice": Health(False, **({"error": "health route: timed out"} | changes))})


def test_routes_that_do_not_answer() -> None:
    assert only(silent(), "routes").mend == "curl -sv http://127.0.0.1:9200/health"
    assert only(silent(gone=True), "routes").severity is Severity.WARNING
    stopped = replace(
        silent(gone=True), units={**GOOD.units, "mvoice.service": unit("mvoice.service", active_state="inactive")}
    )
    assert found(stopped, "routes") == []
    no_unit = replace(silent(gone=True), config=settings(spec("mvoice", unit=""), spec("comfyui")))
    assert only(no_unit, "routes").severity is Severity.NOTE


def test_consumers_in_trouble() -> None:
    entries = [samples.consumer("my voice", "failed", error="it did not start")]
    finding = only(replace(GOOD, status=status(consumers=entries)), "consumers")
    assert (finding.what, finding.mend) == ("my voice is failed: it did not start", "gpumanctl show 'my voice'")


def test_what_people_see_has_the_worst_first_and_each_with_what_mends_it() -> None:
    facts = replace(
        with_unit(restart="always", kill_mode="none"), status=status(version="0.0.9"), missing_files=("/x",)
    )
    lines = [line.plain for line in doctor_lines(examine(facts), Theme(width=100))]
    assert lines[0] == "● something is wrong: 1 problem, 2 warnings, 1 note"
    heads = [line.partition(":")[0] for line in lines if line.partition(":")[0] in ("problem", "warning", "note")]
    assert heads == ["problem", "warning", "warning", "note"]
    assert "  → sudo systemctl restart gpumand" in lines
    assert all(line.isprintable() for line in lines)


def test_a_line_to_copy_is_never_broken() -> None:
    facts = replace(GOOD, caller=Caller(1000, "alice" * 20))
    lines = [line.plain for line in doctor_lines(examine(facts), Theme(width=60))]
    assert lines[0] == "● nothing is wrong: 1 note"
    assert any(line.endswith(f"gpasswd --add {'alice' * 20} gpumand") for line in lines)


def test_as_json_it_has_the_same() -> None:
    document = as_json(examine(bus(is_polkit_there=False)), is_well=False)
    (finding,) = document["findings"]
    assert list(finding) == ["check", "severity", "what", "why", "mend"]
    assert (document["well"], finding["check"], finding["severity"]) == (False, "polkit", "problem")
    assert "bus" in document["good"]
    assert document["skipped"] == []
