"""gpumanctl doctor and calibrate on a booted systemd: real units, polkit and bus policy, as root and as a user."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.host import CONFIG, DAEMON, UNIT_DIR, Host, holding, process
from tests.e2e.machine import Machine

OTHER_USER = "e2e-patient"


@pytest.fixture(autouse=True)
def other_user(host: Host) -> Iterator[None]:
    host.machine.run(["useradd", "--no-create-home", OTHER_USER])
    yield
    host.machine.run(["userdel", OTHER_USER])


def examined(machine: Machine, user: str = "", code: int | None = None) -> dict[str, Any]:
    """Run the doctor and return its report."""
    done = machine.run(["gpumanctl", "doctor", "--json"], check=False, user=user)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def found(document: dict[str, Any], check: str) -> list[dict[str, str]]:
    return [one for one in document["findings"] if one["check"] == check]


def test_a_fresh_host_is_healthy_and_the_doctor_starts_nothing(host: Host) -> None:
    host.holder("alpha", 10000)
    host.start()
    document = examined(host.machine, code=0)
    assert document["findings"] == []
    checked = {"bus", "daemon", "name owner", "service", "polkit", "group", "units", "restarts", "kill mode"}
    assert checked <= set(document["good"])
    host.machine.systemctl("stop", DAEMON)
    (down,) = found(examined(host.machine, code=1), "daemon")
    assert down["mend"] == "systemctl start gpumand"
    assert host.machine.show(DAEMON, "ActiveState") == "inactive"


def test_faulty_units_are_found_and_the_suggested_fixes_work(host: Host) -> None:
    host.unit("stubborn", holding("stubborn", 1000), "KillMode=process")
    host.consumer("stubborn", 1000)
    host.server("again", 1000, 9301)
    host.unit("again", "/bin/sleep infinity", "Restart=always")
    host.unit("hidden", "/bin/sleep infinity")
    host.consumer("hidden", 1000)
    host.consumer("nowhere", 1000)
    host.unit("real", "/bin/sleep infinity", "\n[Install]\nAlias=other.service")
    host.consumer("other", 1000)
    host.machine.systemctl("enable", "real.service")
    host.machine.systemctl("mask", "--runtime", "hidden.service", check=False)
    host.machine.run(["mv", f"{UNIT_DIR}/hidden.service", f"{UNIT_DIR}/hidden.service.away"])
    host.machine.systemctl("mask", "hidden.service")
    host.start()
    document = examined(host.machine, code=1)
    states = {one["what"]: one for one in found(document, "units")}
    assert states["hidden: hidden.service is masked"]["mend"] == "systemctl unmask hidden.service"
    assert "nowhere: systemd has no unit nowhere.service" in states
    (left_behind,), (restarted,) = found(document, "kill mode"), found(document, "restarts")
    assert left_behind["what"] == "stubborn: stubborn.service has KillMode=process"
    assert (restarted["severity"], restarted["what"]) == ("note", "again: again.service has Restart=always")
    (alias,) = found(document, "unit names")
    assert alias["mend"] == '[consumers.other] unit = "real.service"'
    host.machine.run(states["hidden: hidden.service is masked"]["mend"].split())
    host.machine.run(["mv", f"{UNIT_DIR}/hidden.service.away", f"{UNIT_DIR}/hidden.service"])
    host.machine.systemctl("daemon-reload")
    host.machine.systemctl("disable", "real.service")
    after = {one["what"] for one in found(examined(host.machine), "units")}
    assert not any(what.startswith("hidden") for what in after)


def test_a_changed_file_needs_a_reload_and_an_unreadable_file_is_unchecked(host: Host) -> None:
    host.holder("alpha", 10000)
    host.start()
    host.machine.run(["touch", "--date=+10 seconds", CONFIG])
    (stale,) = found(examined(host.machine, code=1), "reload")
    assert stale["mend"] == "gpumanctl reload"
    host.machine.run(["touch", CONFIG])
    host.machine.run(stale["mend"].split())
    assert found(examined(host.machine, code=0), "reload") == []
    host.machine.run(["chmod", "0600", CONFIG])
    document = examined(host.machine, user=OTHER_USER, code=0)
    unseen = {one["check"]: one for one in document["findings"] if one["severity"] == "unchecked"}
    assert unseen["configuration"]["mend"] == "sudo gpumanctl doctor"
    assert {"configuration", "coexistence", "routes"} <= set(unseen)
    assert "units" in document["good"]


def test_a_user_outside_the_group_gets_the_command_that_adds_them(host: Host) -> None:
    host.holder("alpha", 10000)
    host.start()
    (note,) = found(examined(host.machine, user=OTHER_USER, code=0), "group")
    assert note["severity"] == "note"
    assert note["mend"].endswith(f"gpasswd --add {OTHER_USER} gpumand")


def test_a_removed_package_file_is_a_problem(host: Host) -> None:
    host.start()
    rules = "/usr/share/polkit-1/rules.d/org.gpumand1-units.rules"
    # Renamed in its folder: a move from another file system is a copy, which polkitd may read before it is complete.
    host.machine.run(["mv", rules, f"{rules}.away"])
    try:
        (missing,) = found(examined(host.machine, code=1), "polkit")
    finally:
        host.machine.run(["mv", f"{rules}.away", rules])
    assert missing["what"] == f"{rules} is missing"
    # This machine has the package from a file, and no repository with it.
    assert missing["mend"].startswith("apt-get install --reinstall ./gpumand_")


def test_calibrate_measures_by_route_and_by_stop_and_leaves_no_lease(host: Host) -> None:
    host.server("voice", 2500, 9302, "--residual-mib=300")
    host.configure("[consumers.other]", "vram_resident_mib = 1000", 'url = "http://127.0.0.1:9"')
    host.start()
    done = host.machine.run(["gpumanctl", "calibrate", "voice", "--json", "--quiet"], check=False)
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)
    assert (measured["steady_mib"], measured["peak_mib"]) == (2500, 2500)
    by_method = {one["method"]: one for one in measured["unloads"]}
    assert list(by_method) == ["http", "unit-stop"]
    assert (by_method["http"]["freed_mib"], by_method["http"]["residual_mib"]) == (2200, 300)
    assert measured["settings"]["residual_mib"] == 320
    assert by_method["unit-stop"]["residual_mib"] == 0
    assert len(measured["loads_usec"]) == 2
    assert host.client.leases() == {}
    text = host.machine.run(["gpumanctl", "show", "voice"]).stdout
    assert "evicted by  http, then unit-stop" in text
    lines = host.machine.run(["gpumanctl", "history", "--kind", "eviction", "--no-legend"]).stdout.splitlines()
    assert ["by unit-stop" in line for line in lines] == [True, False], "what stays is no more than a CUDA context"
    pasted = tomllib.loads(host.machine.run(["gpumanctl", "calibrate", "voice", "-q"]).stdout)
    assert pasted["consumers"]["voice"]["vram_resident_mib"] == 2560


REQUEST = """python3 -c 'import os, urllib.request as request; \
request.urlopen(os.environ["GPUMAND_ENDPOINT"] + "/work", b"{}")'"""


def test_calibrate_of_a_lazy_server_needs_a_load_and_leaves_its_unit_running(host: Host) -> None:
    host.unit("pictures", f"{process('pictures', 6000)} --port=9304 --lazy --residual-mib=448")
    routes = ['url = "http://127.0.0.1:9304"', 'health = { path = "/system_stats" }']
    host.consumer("pictures", 6000, *routes, 'unload = { path = "/api/admin/unload" }', "residual_mib = 448")
    host.machine.systemctl("start", "pictures.service")
    host.start()
    idle = host.machine.run(["gpumanctl", "calibrate", "pictures", "--timeout=7s", "-q"], check=False)
    assert (idle.returncode, idle.stdout) == (1, "")
    assert host.machine.show("pictures.service", "ActiveState") == "active"
    used = host.machine.run(["gpumanctl", "calibrate", "pictures", "-q", "--while", REQUEST], timeout=120)
    assert tomllib.loads(used.stdout)["consumers"]["pictures"]["vram_resident_mib"] == 6016
    assert host.machine.show("pictures.service", "ActiveState") == "active"
    assert host.client.leases() == {}


def test_program_that_listens_in_place_of_a_unit_is_named(host: Host) -> None:
    host.server("fine", 1000, 9311)
    host.server("taken", 1000, 9312)
    host.unit("taken", "/bin/sleep infinity")
    host.start()
    host.machine.systemctl("start", "fine.service", "taken.service")
    other = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "9312"]
    host.machine.run(["systemd-run", "--quiet", "--unit=stale-server", *other])
    try:
        host.machine.wait_until(lambda: listens(host, 9311) and listens(host, 9312), "both servers listen")
        (finding,) = found(examined(host.machine), "listeners")
        assert finding["what"] == (
            "taken: stale-server.service listens at http://127.0.0.1:9312, and taken.service does not"
        )
        assert found(examined(host.machine, OTHER_USER), "listeners")[0]["what"] == finding["what"]
        host.machine.systemctl("stop", "taken.service")
        (finding,) = found(examined(host.machine), "listeners")
        assert "a server that taken.service starts cannot listen there" in finding["why"]
    finally:
        host.machine.systemctl("stop", "stale-server.service")
    host.machine.wait_until(lambda: not listens(host, 9312), "the port is free")
    assert found(examined(host.machine), "listeners") == []


def listens(host: Host, port: int) -> bool:
    """Whether anything listens at a port of the machine."""
    rows = host.machine.run(["cat", "/proc/net/tcp"]).stdout.splitlines()
    return any(f":{port:04X} 00000000:0000 0A" in row for row in rows)
