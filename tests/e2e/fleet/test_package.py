"""gpumand-fleet as its Debian package: set up with a real etcd as the guide says, confinement, refusals, and purge."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.container import REPOSITORY
from tests.e2e.debfile import built
from tests.e2e.host import DAEMON, Host, holding
from tests.e2e.machine import Machine

FLEET, ETCD = "gpumand-fleet.service", "etcd.service"
USER, MEMBER = "_gpumand-fleet", "e2e-fleet-member"
CONFIG = "/etc/gpumand/fleet.toml"
MOST_EXPOSED = 1.5
PROCESS = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}
KEPT = "/root/fleet-kept"
CTL = ["gpumanctl", "--fleet"]
DPKG = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-unsafe-io"]

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="e2e: needs etcd (package etcd-server)")


@pytest.fixture(scope="session")
def fleet_deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of the fleet, built from the current checkout."""
    return built(tmp_path_factory.mktemp("fleet-deb"), "gpumand-fleet")


@pytest.fixture(scope="module")
def installed(machine: Machine, fleet_deb: Path) -> Iterator[Machine]:
    """The machine with the package, as the installation leaves it."""
    shutil.copy(fleet_deb, f"/proc/{machine.container.leader}/root/root/{fleet_deb.name}")
    machine.run([*DPKG, "--install", f"/root/{fleet_deb.name}"])
    machine.remove(f"/root/{fleet_deb.name}")
    yield machine
    machine.run([*DPKG, "--purge", "gpumand-fleet"])
    machine.systemctl("stop", ETCD, check=False)
    machine.remove(KEPT, "/etc/gpumand/fleet-ca", "/etc/gpumand/fleet-etcd", "/var/lib/etcd/default")


def test_without_a_configuration_the_service_does_not_start_and_does_not_fail(installed: Machine) -> None:
    assert installed.systemctl("is-enabled", FLEET).strip() == "enabled"
    assert (installed.show(FLEET, "ActiveState"), installed.show(FLEET, "ConditionResult")) == ("inactive", "no")
    done = installed.run(CTL, check=False)
    assert (done.returncode, "gpumanctl fleet" in done.stderr) == (3, True), done


def test_autopkgtest_of_the_package_passes(installed: Machine) -> None:
    installed.run(["mkdir", "-p", "/etc/gpumand/conf.d"])
    for name in ("host.sh", "fleet"):
        script = (REPOSITORY / "debian/tests" / name).read_text(encoding="utf-8")
        installed.write_file(f"/root/autopkgtest/{name}", script, mode="0755")
    installed.run(["/root/autopkgtest/fleet"], timeout=120)
    installed.remove("/root/autopkgtest")
    assert installed.run(["ls", "-d", CONFIG], check=False).returncode != 0


@pytest.fixture(scope="module")
def founded(installed: Machine) -> Machine:
    """A fleet of this one host, with a member of etcd, created by the commands of the guide."""
    # As a package in Debian's archive would, etcd may have been started with settings of its own.
    installed.systemctl("stop", ETCD, check=False)
    installed.remove("/var/lib/etcd/default")
    first = installed.run(["gpumanctl", "fleet", "init", "--host", "gpu1", "--address", "localhost", "--etcd"])
    copy = re.search(r"start it: (.*?);", first.stdout)
    assert copy, first.stdout
    installed.run(["sh", "-ec", copy[1]], timeout=90)
    second = installed.run(["gpumanctl", "fleet", "init"])
    start = re.search(r"Start the agent: (.*)", second.stdout)
    assert start, second.stdout
    installed.run(["sh", "-ec", start[1]], timeout=90)
    installed.run(["sh", "-c", f"mkdir {KEPT} && cp -a /etc/gpumand/fleet* {KEPT}"])
    return installed


@pytest.fixture
def running(founded: Machine, host: Host) -> Host:
    """The fleet, with a consumer on the host."""
    host.holder("llm", 9000)
    host.start()
    restore(founded)
    founded.systemctl("restart", DAEMON, FLEET)
    founded.wait_until(lambda: shown(founded).get("gpu1", {}).get("row", {}).get("consumers", {}).get("llm"), "llm")
    return host


def restore(machine: Machine) -> None:
    """Bring the files of the fleet back: the host of a test forgets all of /etc/gpumand at its end."""
    machine.run(["sh", "-c", f"mkdir -p /etc/gpumand && cp -a {KEPT}/* /etc/gpumand"])


def shown(machine: Machine) -> dict[str, Any]:
    done = machine.run([*CTL, "status", "--json"], check=False)
    hosts = json.loads(done.stdout)["hosts"] if done.returncode == 0 else []
    return {one["row"].get("name", ""): one for one in hosts}


def test_consumer_is_leased_through_the_fleet_by_the_rights_of_the_unit(running: Host) -> None:
    machine = running.machine
    assert shown(machine)["gpu1"]["state"] == "up"
    said = machine.run([*CTL, "run", "llm", "--", "sh", "-c", 'echo "$GPUMAND_HOST"'], timeout=60)
    assert said.stdout.strip() == "gpu1"
    machine.wait_until(lambda: not running.client.leases(), "the lease ended with the command")


def test_user_that_gpumand_would_refuse_is_refused_and_may_see_the_hosts(running: Host) -> None:
    machine = running.machine
    assert "gpu1" in machine.run(CTL, user="nobody").stdout
    for command in (["acquire", "llm"], ["load", "llm"]):
        done = machine.run([*CTL, *command], user="nobody", check=False)
        assert (done.returncode, "Add nobody to the gpumand group" in done.stderr) == (1, True), done
    done = machine.run([*CTL, "drain", "gpu1"], user="nobody", check=False)
    assert (done.returncode, "only root may drain" in done.stderr) == (1, True), done
    assert running.client.leases() == {}


def test_exposure_is_low_and_no_directive_is_unknown(founded: Machine, record_exposure: Callable[..., None]) -> None:
    said = founded.run(["systemd-analyze", "security", "--no-pager", FLEET]).stdout
    match = re.search(r"Overall exposure level for gpumand-fleet\.service: ([0-9.]+)", said)
    assert match, said
    record_exposure(match[1], FLEET)
    assert float(match[1]) <= MOST_EXPOSED, said
    fragment = founded.show(FLEET, "FragmentPath")
    assert founded.run(["systemd-analyze", "--man=no", "verify", fragment]).stderr == ""


def test_service_is_a_user_of_its_own_that_cannot_read_the_keys_of_root(running: Host) -> None:
    machine = running.machine
    pid = machine.main_pid(FLEET)
    text = machine.run(["cat", f"/proc/{pid}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert {key: int(status[key], 16) for key in PROCESS} == PROCESS
    uid = machine.run(["id", "-u", USER]).stdout.strip()
    assert status["Uid"].split() == [uid] * 4
    assert machine.run(["id", "-nG", USER]).stdout.split() == [USER]
    for path in ("/etc/gpumand/fleet/host.key", "/etc/gpumand/fleet-ca/ca.key", "/etc/gpumand/fleet/etcd-password"):
        assert machine.run(["cat", path], user=USER, check=False).returncode != 0, path


@pytest.fixture
def licensed(running: Host) -> Iterator[Host]:
    """The fleet with a unique consumer, and a user in the group of gpumand."""
    running.unit("licensed", holding("licensed", 3000))
    running.consumer("licensed", 3000, 'fleet = "unique"')
    running.machine.run(["gpumanctl", "reload"])
    running.machine.run(["useradd", "--no-create-home", "--groups=gpumand", MEMBER])
    yield running
    running.machine.run(["userdel", MEMBER])


def test_user_of_the_service_may_acquire_and_evict_unique_consumers_without_force_and_nothing_else(
    licensed: Host,
) -> None:
    client = licensed.client
    for consumer in ("llm", "licensed"):
        (lease, _) = client.call("Acquire", "sa{sv}", consumer, "0", user=USER)
        client.call("Release", "s", lease, user=USER)
    refused = {"Pin": ("'llm'",), "Reload": (), "ReleaseGpu": ("{}",), "Evict": ("'llm'", "{}")}
    refusals = [*refused.items(), ("Evict", ("'licensed'", "{'force': <true>}"))]
    for method, arguments in refusals:
        error, _ = client.refusal(method, *arguments, user=USER)
        assert error.endswith(("AccessDenied", "InteractiveAuthorizationRequired")), (method, arguments)
    client.call("Evict", "sa{sv}", "licensed", "0", user=USER)
    assert client.consumer("licensed")["residency"] == "unloaded"


def test_member_of_the_group_gets_a_unique_consumer_through_the_fleet_only(licensed: Host) -> None:
    machine = licensed.machine
    error, message = licensed.client.refusal("Acquire", "'licensed'", "{}", user=MEMBER)
    assert error.endswith("InteractiveAuthorizationRequired"), error
    assert "gpumanctl --fleet acquire licensed" in message
    (lease, _) = licensed.client.call("Acquire", "sa{sv}", "llm", "0", user=MEMBER)
    licensed.client.call("Release", "s", lease, user=MEMBER)
    said = machine.run([*CTL, "run", "licensed", "--", "echo", "served"], user=MEMBER, timeout=60)
    assert said.stdout.strip() == "served"


def test_unique_consumer_stays_loaded_over_a_restart_as_at_an_upgrade_and_not_over_a_stop(licensed: Host) -> None:
    machine = licensed.machine
    machine.run([*CTL, "run", "licensed", "--", "true"], user=MEMBER, timeout=60)
    assert licensed.client.consumer("licensed")["residency"] == "resident"
    before = machine.show("licensed.service", "InvocationID")
    machine.systemctl("restart", FLEET)
    assert "claims stay for the next process" in machine.journal(FLEET)
    said = machine.run([*CTL, "run", "licensed", "--", "echo", "served"], user=MEMBER, timeout=60)
    assert said.stdout.strip() == "served"
    assert machine.show("licensed.service", "InvocationID") == before, "it was not loaded again"
    machine.systemctl("stop", FLEET)
    assert licensed.client.consumer("licensed")["residency"] == "unloaded"
    machine.systemctl("start", FLEET)


def test_invalid_configuration_is_reported_and_not_tried_again(running: Host) -> None:
    machine = running.machine
    good = machine.run(["cat", CONFIG]).stdout
    try:
        machine.write_file(CONFIG, good.replace("[fleet.allow]", "[fleet.alow]"))
        assert machine.run(["gpumanctl", "config-check", CONFIG], check=False).returncode == 1
        assert machine.run(["systemctl", "reload", FLEET], check=False).returncode != 0
        assert machine.show(FLEET, "ActiveState") == "active", "a reload that fails changes nothing"
        machine.systemctl("restart", FLEET, check=False)
        machine.wait_until(lambda: machine.show(FLEET, "ActiveState") == "failed", "it is not started again")
        assert machine.show(FLEET, "ExecMainStatus") == "78"
        assert "fleet.alow: unknown table (did you mean allow?)" in machine.journal(FLEET)
    finally:
        machine.write_file(CONFIG, good)
        machine.systemctl("reset-failed", FLEET)
        machine.systemctl("restart", FLEET)


def test_purge_leaves_only_the_certificate_authority(founded: Machine) -> None:
    restore(founded)
    founded.systemctl("start", FLEET)
    founded.run([*DPKG, "--purge", "gpumand-fleet"])
    left = founded.run(["sh", "-c", "ls -d /etc/gpumand/fleet* /run/gpumand-fleet 2> /dev/null"], check=False).stdout
    assert left.split() == ["/etc/gpumand/fleet-ca", "/etc/gpumand/fleet-etcd"]
    assert founded.run(["getent", "passwd", USER], check=False).returncode != 0
    assert founded.run(["getent", "group", USER], check=False).returncode != 0
    assert founded.systemctl("is-system-running", check=False).strip() == "running"
