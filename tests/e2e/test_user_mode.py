"""gpumand in user mode: under the real user manager and on the session bus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import MANAGER, NAME, ROOT
from tests.e2e.host import DAEMON
from tests.e2e.installation import module_command
from tests.e2e.machine import Machine
from tests.e2e.user_session import HOME, USER, UserMachine, UserSession

REPOSITORY = Path(__file__).resolve().parents[2]
SOCKET = "gpumand.socket"
GET_STATUS = ["busctl", "--user", "--json=short", "call", NAME, ROOT, MANAGER, "GetStatus"]


@pytest.fixture(scope="module")
def begun(machine: Machine) -> UserSession:
    """The user's session, shared by the tests of this module."""
    return UserSession.begin(machine)


@pytest.fixture
def session(begun: UserSession) -> Iterator[UserSession]:
    """The session, without configuration and consumers."""
    one = UserSession(begun.machine, begun.client)
    one.configure()
    yield one
    one.clean()


def fetched(machine: UserMachine) -> Any:
    curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", "--unix-socket"]
    return json.loads(machine.run([*curl, f"{machine.runtime}/gpumand.sock", "http://localhost/v1/status"]).stdout)


def test_bus_call_starts_the_user_daemon(session: UserSession) -> None:
    session.holder("alpha", 1000)
    assert session.machine.show(DAEMON, "ActiveState") == "inactive"
    assert [one["name"] for one in session.client.status()["consumers"]] == ["alpha"]
    # The daemon answers calls a moment before it reports to systemd that it is ready.
    session.machine.wait_until(lambda: session.machine.show(DAEMON, "ActiveState") == "active", "the daemon is ready")
    assert session.machine.show(SOCKET, "ActiveState") == "active"
    assert session.machine.show(DAEMON, "StatusText")


def test_http_connection_starts_the_user_daemon_and_is_refused_to_other_users(session: UserSession) -> None:
    session.holder("alpha", 1000)
    session.machine.systemctl("start", SOCKET)
    assert session.machine.show(DAEMON, "ActiveState") == "inactive"
    assert [one["name"] for one in fetched(session.machine)["consumers"]] == ["alpha"]
    path = f"{session.machine.runtime}/gpumand.sock"
    assert session.machine.run(["stat", "--format=%a %U", path]).stdout.split() == ["600", USER]


def gamemode_lines() -> dict[str, str]:
    """The commands of the guide for GameMode, which runs them with sh -c, for the gpumand of the user."""
    text = (REPOSITORY / "docs/guide/games.md").read_text(encoding="utf-8")
    config = ConfigParser(interpolation=None)
    config.read_string(text.partition("```ini\n")[2].partition("```")[0])
    cli = f"{module_command('gpumand.cli')} --user "
    return {name: line.replace("gpumanctl ", cli) for name, line in config["custom"].items()}


def test_lines_of_the_guide_give_a_game_the_gpu_as_long_as_it_runs(session: UserSession) -> None:
    session.holder("alpha", 14000)
    lease, _ = session.client.acquire("alpha")
    session.client.release(lease)
    lines = gamemode_lines()
    for _ in range(2):
        # GameMode waits 10 s for its commands.
        session.machine.run(["sh", "-c", lines["start"]], timeout=10)
        session.machine.wait_until(
            lambda: [one["reason"] for one in session.client.leases().values()] == ["game"], "the GPU is reserved"
        )
        assert session.machine.show("alpha.service", "ActiveState") == "inactive"
        session.machine.run(["sh", "-c", lines["end"]], timeout=10)
        session.machine.wait_until(lambda: not session.client.leases(), "the reservation has ended")


def test_user_daemon_loads_and_evicts_user_units(session: UserSession) -> None:
    session.holder("alpha", 14000)
    session.holder("beta", 14000)
    lease, grant = session.client.acquire("alpha")
    assert grant["loaded"]
    assert session.machine.show("alpha.service", "ActiveState") == "active"
    session.client.await_memory("alpha", 14000)
    session.client.release(lease)
    _, grant = session.client.acquire("beta")
    assert grant["evicted"] == ["alpha"]
    assert session.machine.show("alpha.service", "ActiveState") == "inactive"
    session.client.await_memory("beta", 14000)


def test_user_daemon_loads_and_unloads_a_consumer_by_its_routes(session: UserSession) -> None:
    session.server("alpha", 9000, 8101)
    session.client.use("alpha", 9000)
    session.client.call("Evict", "sa{sv}", "alpha", "0")
    assert session.client.consumer("alpha")["residency"] == "unloaded"
    assert session.machine.show("alpha.service", "ActiveState") == "active"


def test_user_daemon_notices_a_unit_that_the_user_stops(session: UserSession) -> None:
    session.holder("alpha", 1000)
    session.client.use("alpha", 1000)
    session.machine.systemctl("stop", "alpha.service")
    session.client.await_residency("alpha", "unloaded")
    session.machine.systemctl("start", "alpha.service")
    session.client.await_residency("alpha", "resident")


def test_memory_of_system_units_is_foreign_and_not_attributed_to_user_units(session: UserSession) -> None:
    session.holder("alpha", 1000)
    session.client.use("alpha", 1000)
    other = f"{module_command('gpumand.testing.consumer')} --name=other --mib=3000 --loaded-at-start --anonymous"
    system = [
        "systemd-run",
        "--quiet",
        "--unit=alpha.service",
        f"--uid={USER}",
    ]  # with the same name, to be distinguished
    session.machine.run([*system, *other.split(), f"--simulator-dir={session.simulator}"], user="root")
    try:
        session.machine.wait_until(
            lambda: session.client.status()["devices"][0].get("foreign_mib") == 3000, "the system's is foreign"
        )
        session.machine.systemctl("stop", "alpha.service")
        session.client.await_residency("alpha", "unloaded")
        assert session.client.consumer("alpha")["used_mib"] == 0, "known to hold nothing"
    finally:
        session.machine.run(["systemctl", "stop", "alpha.service"], user="root", check=False)


def test_leases_outlast_kill_and_restart_and_end_with_a_stop(session: UserSession) -> None:
    session.holder("alpha", 1000)
    lease, _ = session.client.acquire("alpha")
    before = session.machine.main_pid(DAEMON)
    session.machine.systemctl("kill", "--signal=KILL", DAEMON)
    session.machine.wait_until(lambda: session.machine.main_pid(DAEMON) not in (0, before), "it was started again")
    assert list(session.client.leases()) == [lease]
    session.machine.systemctl("restart", DAEMON)
    assert list(session.client.leases()) == [lease]
    session.machine.systemctl("stop", DAEMON)
    assert session.client.leases() == {}


def test_user_manager_restarts_a_hanging_daemon(session: UserSession) -> None:
    drop_in = f"{HOME}/.config/systemd/user/{DAEMON}.d/e2e.conf"
    session.machine.write_file(drop_in, "[Service]\nWatchdogSec=2\n")
    session.machine.systemctl("daemon-reload")
    session.holder("alpha", 1000)
    lease, _ = session.client.acquire("alpha")
    before = session.machine.main_pid(DAEMON)
    session.machine.run(["kill", "-STOP", str(before)])
    session.machine.wait_until(lambda: session.machine.main_pid(DAEMON) not in (0, before), "it was restarted", 20)
    assert list(session.client.leases()) == [lease]


def test_user_may_reload_the_user_daemon_and_set_its_log_level(session: UserSession) -> None:
    session.holder("alpha", 1000)
    session.client.status()
    session.holder("beta", 1000)
    session.machine.systemctl("reload", DAEMON)
    assert len(session.client.status()["consumers"]) == 2, "beta counts"
    bad = f"{HOME}/.config/gpumand/conf.d/bad.toml"
    session.machine.write_file(bad, "nonsense = 1\n")
    assert session.machine.run(["systemctl", "--user", "reload", DAEMON], check=False).returncode == 1
    session.machine.remove(bad)
    session.machine.systemctl("reload", DAEMON)
    session.machine.systemctl("service-log-level", DAEMON, "debug")
    assert session.machine.systemctl("service-log-level", DAEMON).strip() == "debug"


def test_gpumanctl_user_calls_the_daemon_of_the_session(session: UserSession) -> None:
    session.holder("alpha", 1000)
    shown = json.loads(session.machine.run(["gpumanctl", "--user", "--json", "status"]).stdout)
    assert [one["name"] for one in shown["consumers"]] == ["alpha"]
    assert session.machine.run(["gpumanctl", "--user", "run", "alpha", "--", "echo", "done"]).stdout == "done\n"
    said = session.machine.run(["gpumanctl", "--user", "config-check"]).stdout
    assert said.startswith("The configuration in ")
    assert said.endswith("/.config/gpumand is valid: 1 consumer.\n")


def test_lease_bound_to_a_user_unit_ends_with_the_unit(session: UserSession) -> None:
    session.holder("alpha", 1000)
    session.client.status()
    acquire = ["gpumanctl", "--user", "acquire", "--lifetime=unit", "alpha"]
    run = ["systemd-run", "--user", "--quiet", "--unit=job.service", "--service-type=exec"]
    session.machine.run([*run, "sh", "-c", f"{' '.join(acquire)} && exec sleep infinity"])
    session.machine.wait_until(lambda: len(session.client.leases()) == 1, "it has its lease")
    session.machine.systemctl("stop", "job.service")
    session.machine.wait_until(lambda: session.client.leases() == {}, "and has it no longer")


def test_user_daemon_runs_alongside_the_system_daemon(session: UserSession, machine: Machine) -> None:
    session.holder("alpha", 1000)
    machine.systemctl("start", DAEMON)
    try:
        session.client.status()
        assert machine.main_pid(DAEMON) != session.machine.main_pid(DAEMON) != 0
    finally:
        machine.systemctl("stop", DAEMON)


def test_user_manager_accepts_all_hardening_directives(session: UserSession) -> None:
    session.client.status()
    main = session.machine.main_pid(DAEMON)
    status = session.machine.run(["cat", f"/proc/{main}/status"]).stdout
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    verified = session.machine.run(["systemd-analyze", "--user", "verify", "/usr/lib/systemd/user/gpumand.service"])
    assert verified.stderr == ""


def test_user_daemon_without_a_configuration_starts_and_ignores_the_system_configuration(
    session: UserSession, machine: Machine
) -> None:
    session.machine.remove(f"{HOME}/.config/gpumand")
    machine.write_file("/etc/gpumand/gpumand.toml", '[consumers.theirs]\nvram_resident_mib = 1\nunit = "x.service"\n')
    try:
        assert session.client.status()["consumers"] == []
    finally:
        machine.remove("/etc/gpumand")
