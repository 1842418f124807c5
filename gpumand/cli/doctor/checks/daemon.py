"""Is it there, is it the right one, and is it well?"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from gpumand.bus.names import BUS_NAME
from gpumand.cli.doctor.facts import DAEMON_USER, Facts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning
from gpumand.discovery.daemons import OtherDaemon
from gpumand.version import VERSION


def bus(facts: Facts) -> Iterator[Finding]:
    """There is a bus, and it lets us speak to gpumand."""
    if facts.bus.error:
        is_named = facts.bus.kind in ("system", "session")
        which = f"the {facts.bus.kind} bus" if is_named else "the bus that was named"
        mend = facts.systemctl("start dbus.socket") if is_named else ""
        yield problem(f"{which} is not there: {facts.bus.error}", "nobody can ask gpumand for anything", mend)
    elif facts.bus.denied:
        yield problem(
            f"the policy of the bus does not let you call {BUS_NAME}: {facts.bus.denied}",
            "its file org.gpumand1.conf is missing or was not read",
            facts.root("apt-get install --reinstall gpumand"),
        )


def running(facts: Facts) -> Iterator[Finding]:
    """It runs and answers."""
    if facts.bus.error:
        return
    if not facts.bus.is_running:
        yield _not_running(facts)
    elif facts.status is None and not facts.bus.denied:
        yield problem(
            f"gpumand does not answer: {facts.status_error or 'no reason is known'}",
            "",
            facts.systemctl("restart gpumand"),
        )


def _not_running(facts: Facts) -> Finding:
    if facts.bus.kind not in ("system", "session"):
        return problem(
            "gpumand is not running on this bus", "nobody can be lent VRAM", f"gpumand --bus-address '{facts.bus.kind}'"
        )
    if facts.bus.is_activatable:
        why = "the next call on the bus, or connection to its socket, starts it"
        return problem("gpumand is not running", why, facts.systemctl("start gpumand"))
    why = "and no call on the bus would start it: it seems not to be installed"
    return problem("gpumand is not running", why, facts.root("apt-get install gpumand"))


def owner(facts: Facts) -> Iterator[Finding]:
    """Its name on the system bus is owned by its own user or by root."""
    uid = facts.bus.owner_uid
    if not facts.is_system or uid is None or uid in (0, facts.bus.daemon_uid):
        return
    yield problem(
        f"{BUS_NAME} is owned by uid {uid}, which is neither root nor {DAEMON_USER}",
        "some other program took the name, or the policy of the bus was changed",
        f"busctl status {BUS_NAME}",
    )


def service(facts: Facts) -> Iterator[Finding]:
    """systemd knows its unit, may start it, and it has not given up on it."""
    unit = facts.service
    if facts.bus.kind not in ("system", "session") or facts.bus.error:
        return
    if unit is None:
        yield unchecked("gpumand.service", f"systemd cannot be asked: {facts.units_error or 'it is not on this bus'}")
    elif unit.load_state == "masked":
        why = "neither the bus nor anybody else can start it"
        yield problem("gpumand.service is masked", why, facts.systemctl("unmask gpumand.service"))
    elif unit.load_state == "not-found":
        yield problem("gpumand.service is not installed", "", facts.root("apt-get install gpumand"))
    elif unit.active_state == "failed":
        yield problem(
            f"gpumand.service has failed (result {unit.result or 'unknown'})",
            "",
            f"journalctl {'--user ' if facts.user else ''}-u gpumand -n 20",
        )
    elif unit.need_daemon_reload:
        why = "its unit file was changed, and systemd has not read it since"
        yield warning("gpumand.service is out of date", why, facts.systemctl("daemon-reload"))


def version(facts: Facts) -> Iterator[Finding]:
    """The daemon is of this program's version."""
    if facts.status and facts.status["version"] != VERSION:
        yield warning(
            f"gpumand {facts.status['version']} is running, and this is gpumanctl {VERSION}",
            "it was upgraded and not restarted; leases survive a restart",
            facts.systemctl("restart gpumand"),
        )


def degraded(facts: Facts) -> Iterator[Finding]:
    """It sees VRAM. Where we see the very same fault of the driver, that is told with it, and with what mends it."""
    if (
        facts.status
        and facts.status["degraded"]
        and not (facts.driver and facts.driver.error == facts.status["degraded"])
    ):
        why = "until that is mended, it goes by footprints instead of figures"
        yield problem(f"gpumand is degraded: {facts.status['degraded']}", why)


def others(facts: Facts) -> Iterator[Finding]:
    """No other gpumand lends the same GPUs; where all of ours have devices of their own, that may be meant so."""
    tell = note if facts.consumers and all(spec.devices for spec in facts.consumers.values()) else warning
    why = (
        "each promises VRAM without knowing what the other has promised, and evicts only its own consumers; keep one, "
        "or give their consumers devices of their own"
    )
    for one in facts.others:
        yield tell(f"another gpumand runs on this host ({one})", why, _stop(facts, one))


def _stop(facts: Facts, other: OtherDaemon) -> str:
    """A user has the right to stop the own one, the system's administrator to stop a user's."""
    units = "disable --now gpumand.socket gpumand.service"
    if facts.user or not other.user:
        return facts.systemctl(units)
    return facts.root(f"systemctl --user --machine={quote(other.user)}@ {units}")
