"""The daemon's user may manage the configured units and nothing else, with the real polkitd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.host import CONFIG, Host
from tests.e2e.machine import Machine

USER = "_gpumand"
MARK = "/run/e2e-mark"
POLKIT = "polkit.service"
PROCESS = "e2e-process.service"
POLKIT_DIED = "disconnected from message bus without replying"
"""polkitd 122 exits by itself about once in 1500 requests; the test then repeats its request, as the daemon does."""


@pytest.fixture(scope="session")
def machine(each_debian: Machine) -> Machine:
    """Run on each Debian release: the versions of systemd and polkit differ."""
    return each_debian


@pytest.fixture(autouse=True)
def units(host: Host) -> Iterator[None]:
    """A configured unit, an unconfigured one, and one that is configured but does not exist."""
    for name in ("configured", "other"):
        host.unit(name, "/usr/bin/sleep infinity")
    host.consumer("configured", 1000)
    host.consumer("absent", 1000)
    yield
    host.machine.systemctl("stop", "absent.service", PROCESS, check=False)
    host.machine.remove(MARK)


def attempt(host: Host, *command: str, user: str = USER) -> subprocess.CompletedProcess[str]:
    done = host.machine.run(command, user=user, check=False)
    return attempt(host, *command, user=user) if POLKIT_DIED in done.stderr else done


def manage(host: Host, verb: str, unit: str, user: str = USER) -> bool:
    """Try an operation on a unit. Returns whether it was allowed."""
    done = attempt(host, "systemctl", "--no-ask-password", verb, unit, user=user)
    denied = "Access denied" in done.stderr or "authentication required" in done.stderr
    assert denied != (done.returncode == 0), done.stderr
    return not denied


def state(host: Host, unit: str) -> str:
    return host.machine.show(unit, "ActiveState")


def test_configured_unit_may_be_started_restarted_and_stopped(host: Host) -> None:
    assert manage(host, "start", "configured.service")
    before = host.machine.main_pid("configured.service")
    assert manage(host, "restart", "configured.service")
    assert host.machine.main_pid("configured.service") not in (0, before)
    assert manage(host, "stop", "configured.service")
    assert state(host, "configured.service") == "inactive"


def test_other_units_are_refused(host: Host) -> None:
    assert not manage(host, "start", "other.service")
    host.machine.systemctl("start", "other.service")
    assert not manage(host, "stop", "other.service")
    assert not manage(host, "restart", "other.service")
    assert state(host, "other.service") == "active"
    assert not manage(host, "stop", "dbus.service")


VERBS = ["kill", "reload", "reload-or-restart", "try-restart", "reset-failed", "freeze", "clean"]


@pytest.mark.parametrize("verb", VERBS)
def test_other_verbs_are_refused(host: Host, verb: str) -> None:
    host.unit("configured", "/usr/bin/sleep infinity", "ExecReload=/bin/true", "RuntimeDirectory=e2e-configured")
    if verb != "clean":  # clean is allowed for stopped units only
        host.machine.systemctl("start", "configured.service")
    assert not manage(host, verb, "configured.service")


UNIT = ("s", "configured.service")
CALLS = {
    "SetUnitProperties": ("sba(sv)", UNIT[1], "true", "1", "CPUWeight", "t", "1"),
    "EnableUnitFiles": ("asbb", "1", UNIT[1], "true", "false"),
    "DisableUnitFiles": ("asb", "1", UNIT[1], "true"),
    "MaskUnitFiles": ("asbb", "1", UNIT[1], "true", "false"),
    "LinkUnitFiles": ("asbb", "1", "/srv/e2e.service", "true", "false"),
    "KillUnit": ("ssi", UNIT[1], "all", "9"),
    "ResetFailedUnit": UNIT,
    "ResetFailed": (),
    "ReloadUnit": ("ss", UNIT[1], "replace"),
    "EnqueueUnitJob": ("sss", UNIT[1], "reload", "replace"),
    "StartTransientUnit": ("ssa(sv)a(sa(sv))", "e2e-new.service", "replace", "0", "0"),
    "SetEnvironment": ("as", "1", "E2E=1"),
    "Reload": (),
    "Reexecute": (),
    "PowerOff": (),
}


@pytest.mark.parametrize("method", CALLS)
def test_other_systemd_calls_are_refused(host: Host, method: str) -> None:
    host.machine.systemctl("start", "configured.service")
    before = host.machine.main_pid("configured.service")
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    done = attempt(host, "busctl", "call", *manager, method, *CALLS[method])
    assert "denied" in done.stderr.lower() or "authentication required" in done.stderr, done
    assert host.machine.main_pid("configured.service") == before


def test_rule_allows_no_changes_of_properties_unit_files_or_the_manager(host: Host) -> None:
    for command in (
        ["set-property", "--runtime", "configured.service", "CPUWeight=1"],
        ["enable", "configured.service"],
        ["mask", "configured.service"],
        ["daemon-reload"],
        ["reboot"],
    ):
        done = attempt(host, "systemctl", "--no-ask-password", *command)
        assert done.returncode != 0, command
    assert host.machine.systemctl("is-system-running").strip() == "running"


@pytest.mark.parametrize("unit", ["absent.service", "configured.service", "brand-new.service"])
def test_transient_units_are_refused_even_with_a_configured_name(host: Host, unit: str) -> None:
    done = attempt(host, "systemd-run", "--no-ask-password", f"--unit={unit}", "touch", MARK)
    assert done.returncode != 0
    assert host.machine.run(["test", "-e", MARK], check=False).returncode == 1
    assert state(host, unit) == "inactive"


def test_rule_checks_unit_and_verb_of_transient_units_as_newer_systemd_reports_them(host: Host) -> None:
    host.machine.run(["systemd-run", f"--unit={PROCESS}", f"--uid={USER}", "sleep", "infinity"])
    asked = ["pkcheck", "--action-id", "org.freedesktop.systemd1.manage-units", "--process"]

    def allows(**details: str) -> bool:
        given = [word for key, value in details.items() for word in ("--detail", key, value)]
        done = attempt(host, *asked, str(host.machine.main_pid(PROCESS)), *given, user="")
        return {0: True, 1: False}[done.returncode]

    assert allows(unit="configured.service", verb="start")
    assert allows(unit="absent.service", verb="stop")
    assert not allows(unit="absent.service", verb="start")
    assert not allows(unit="brand-new.service", verb="start")
    assert not allows(unit="configured.service")
    assert not allows(verb="start")
    assert not allows()


def test_transient_unit_of_root_with_a_configured_name_may_be_stopped_but_not_started(host: Host) -> None:
    host.machine.run(["systemd-run", "--unit=absent.service", "sleep", "infinity"])
    assert manage(host, "stop", "absent.service")
    assert not manage(host, "start", "absent.service")


def test_rule_grants_nothing_to_other_users(host: Host) -> None:
    assert not manage(host, "start", "configured.service", user="nobody")


def test_rule_applies_a_changed_configuration_at_once(host: Host) -> None:
    host.machine.write_file(CONFIG, '[consumers.other]\nunit = "other.service"\nvram_resident_mib = 1\n')
    assert manage(host, "start", "other.service")
    assert not manage(host, "start", "configured.service")


def test_world_writable_configuration_is_ignored_by_the_rule(host: Host) -> None:
    host.machine.run(["chown", USER, CONFIG])
    assert not manage(host, "start", "configured.service")
    host.machine.run(["chown", "root", CONFIG])
    host.machine.run(["chmod", "0666", CONFIG])
    assert not manage(host, "start", "configured.service")
    host.machine.run(["chmod", "0644", CONFIG])
    assert manage(host, "start", "configured.service")


def test_unprivileged_daemon_loads_and_evicts_units_and_reads_the_state_of_other_units(
    host: Host, client: Client
) -> None:
    host.holder("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    lease, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]
    assert state(host, "alpha.service") == "inactive"
    name, message = client.refusal("Release", lease, user="nobody")
    assert name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", message
    assert list(client.leases()) == [lease]


def test_polkit_crash_during_a_unit_start_delays_the_load_without_failing_it(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.start()
    client.use("alpha", 10000)  # polkit is running after this
    host.machine.systemctl("stop", "alpha.service")
    client.await_residency("alpha", "unloaded")
    host.machine.systemctl("kill", "--signal=STOP", POLKIT)
    waiting = host.machine.start(["gpumanctl", "acquire", "alpha"])
    client.await_residency("alpha", "loading")
    host.machine.systemctl("kill", "--signal=KILL", POLKIT)
    said, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, said + errors
    assert state(host, "alpha.service") == "active"
