"""Checks of the daemon: bus, name owner, service, version and degraded operation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from shlex import quote

from gpumand.bus.names import BUS_NAME
from gpumand.cli.doctor.facts import DAEMON_USER, Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning
from gpumand.cli.doctor.unread import effect_of
from gpumand.discovery.daemons import OtherDaemon
from gpumand.domain.device import error_word
from gpumand.domain.unread_devices import UNCHECKED, reset_command
from gpumand.version import VERSION

RESET_REQUIRED = re.compile(r"device ([0-9]{1,6}): gpu-reset-required")


def bus(facts: Facts) -> Iterator[Finding]:
    """The bus exists and allows calls to gpumand."""
    if facts.bus.error:
        is_standard = facts.bus.kind in ("system", "session")
        which = f"the {facts.bus.kind} bus" if is_standard else "the bus at the given address"
        why, fix = "clients cannot reach gpumand", facts.systemctl("start dbus.socket") if is_standard else ""
        if is_standard and (missing := facts.bus.no_systemd):
            why, fix = missing.what, missing.fix
        yield problem(f"{which} is not available: {facts.bus.error}", why, fix)
    elif facts.bus.denied:
        yield problem(
            f"the D-Bus policy does not allow you to call {BUS_NAME}: {facts.bus.denied}",
            "the policy file org.gpumand1.conf is missing or was not loaded",
            facts.install("gpumand", again=True),
        )


def running(facts: Facts) -> Iterator[Finding]:
    """The daemon runs and answers."""
    if facts.bus.error:
        return
    if not facts.bus.is_running:
        if not _explains_itself(facts.service):
            yield _not_running(facts)
    elif facts.status is None and not facts.bus.denied:
        yield problem(
            f"gpumand does not answer: {facts.status_error or 'reason unknown'}",
            "",
            facts.systemctl("restart gpumand"),
        )


def _explains_itself(unit: UnitFacts | None) -> bool:
    """Whether the check of the service says why it does not run; to start it would fail."""
    return unit is not None and (unit.load_state in ("masked", "not-found") or unit.active_state == "failed")


def _not_running(facts: Facts) -> Finding:
    if facts.bus.kind not in ("system", "session"):
        return problem(
            "gpumand is not running on this bus",
            "no client can get a lease",
            f"gpumand --bus-address '{facts.bus.kind}'",
        )
    if facts.bus.is_activatable:
        why = "the next D-Bus call or connection to its socket starts it"
        return problem("gpumand is not running", why, facts.systemctl("start gpumand"))
    why = "a D-Bus call does not start it either; it does not seem to be installed"
    return problem("gpumand is not running", why, facts.install("gpumand"))


def owner(facts: Facts) -> Iterator[Finding]:
    """The owner of its name on the system bus is its own user or root."""
    uid = facts.bus.owner_uid
    if not facts.is_system or uid is None or uid in (0, facts.bus.daemon_uid):
        return
    yield problem(
        f"{BUS_NAME} is owned by uid {uid}, which is neither root nor {DAEMON_USER}",
        "another program took the name, or the D-Bus policy was changed",
        f"busctl status {BUS_NAME}",
    )


def service(facts: Facts) -> Iterator[Finding]:
    """systemd knows gpumand.service and can start it, and it has not failed."""
    unit = facts.service
    if facts.bus.kind not in ("system", "session") or facts.bus.error:
        return
    if unit is None:
        yield unchecked("gpumand.service", facts.units_error or "systemd is not on this bus")
    elif unit.load_state == "masked":
        fix = facts.systemctl("unmask gpumand.service") + " && " + facts.systemctl("start gpumand.service")
        yield problem("gpumand.service is masked", "nothing can start it", fix)
    elif unit.load_state == "not-found":
        yield problem("gpumand.service is not installed", "", facts.install("gpumand"))
    elif unit.active_state == "failed":
        what = f"gpumand.service has failed (result {unit.result or 'unknown'})"
        if facts.config.problems:
            yield problem(what, "its configuration has errors, see below", "")
        else:
            log = facts.root("journalctl -u gpumand -n 20") if not facts.user else "journalctl --user -u gpumand -n 20"
            yield problem(what, "", f"{log}   # the cause; after the repair: {facts.systemctl('restart gpumand')}")
    elif unit.need_daemon_reload:
        why = "its unit file was changed and systemd has not reloaded it"
        yield warning("gpumand.service is out of date", why, facts.systemctl("daemon-reload"))


def version(facts: Facts) -> Iterator[Finding]:
    """The daemon has the version of this gpumanctl."""
    if facts.status and facts.status["version"] != VERSION:
        yield warning(
            f"gpumand {facts.status['version']} is running, and this is gpumanctl {VERSION}",
            "it was not restarted after an upgrade; leases survive a restart",
            facts.systemctl("restart gpumand"),
        )


def degraded(facts: Facts) -> Iterator[Finding]:
    """The daemon gets VRAM readings.

    A fault of the driver that this process sees as well is left to the driver's check, which knows the fix.
    """
    error = facts.status["degraded"] if facts.status else ""
    is_known = bool(facts.driver and facts.driver.error and error.startswith(facts.driver.error))
    if error and not is_known:
        effect = effect_of(error, facts)
        yield problem(f"gpumand is degraded: {error}", "" if effect in error else effect, _fix_of(error, facts))


def _fix_of(error: str, facts: Facts) -> str:
    """What to do about a reading that fails, where one step helps for certain or is the next one to try."""
    if error_word(error) == "no-source" and UNCHECKED in error:
        return "set total_mib in [gpu] to the size of your GPU, then: " + facts.ctl("reload")
    if "gpu-lost" in error:
        return facts.root("journalctl -k -g NVRM") + "   # the cause; a GPU off the bus seldom works before a reboot"
    if found := RESET_REQUIRED.search(error):
        return facts.ctl_as_root(f"gpu release -- {reset_command(int(found[1]))}")
    return ""


def other_daemons(facts: Facts) -> Iterator[Finding]:
    """No other gpumand manages the same GPUs; only a note when every consumer here is limited to certain devices."""
    finding = note if facts.consumers and all(spec.devices for spec in facts.consumers.values()) else warning
    why = (
        "each grants VRAM without knowing the grants of the other, and evicts only its own consumers; stop one, or "
        "give their consumers separate devices"
    )
    for one in facts.other_daemons:
        yield finding(f"another gpumand runs on this host ({one})", why, _stop(facts, one))


def _stop(facts: Facts, other: OtherDaemon) -> str:
    """The command that stops one of the two: users can stop only their own, the administrator can stop a user's."""
    units = "disable --now gpumand.socket gpumand.service"
    if facts.user or not other.user:
        return facts.systemctl(units)
    return facts.root(f"systemctl --user --machine={quote(other.user)}@ {units}")
