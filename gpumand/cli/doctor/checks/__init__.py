"""The checks, in the order in which somebody would look; each gives what it finds, and nothing where all is well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpumand.cli.doctor.checks import configuration, consumers, daemon, driver, permissions, units
from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        find: gives what it finds.
        applies: whether there is anything to look at; else nothing is said of it, good or bad.
    """

    find: Callable[[Facts], Iterator[Finding]]
    applies: Callable[[Facts], bool]


def _always(_: Facts) -> bool:
    return True


def _bus(facts: Facts) -> bool:
    return not facts.bus.error


def _service(facts: Facts) -> bool:
    return not facts.bus.error and facts.bus.kind in ("system", "session")


def _system_bus(facts: Facts) -> bool:
    return facts.is_system and not facts.bus.error


def _owned(facts: Facts) -> bool:
    return facts.is_system and facts.bus.owner_uid is not None


def _system(facts: Facts) -> bool:
    return facts.is_system


def _status(facts: Facts) -> bool:
    return facts.status is not None


def _files(facts: Facts) -> bool:
    return facts.config.settings is not None or bool(facts.config.unreadable)


def _driver(facts: Facts) -> bool:
    return facts.driver is not None


def _module(facts: Facts) -> bool:
    return facts.driver is not None and bool(facts.driver.kernel_version)


def _units(facts: Facts) -> bool:
    return bool(facts.unit_names)


def _seen_units(facts: Facts) -> bool:
    return bool(facts.unit_names) and not facts.units_error


CHECKS: dict[str, Check] = {
    "bus": Check(daemon.bus, _always),
    "daemon": Check(daemon.running, _bus),
    "owner of the name": Check(daemon.owner, _owned),
    "service": Check(daemon.service, _service),
    "version": Check(daemon.version, _status),
    "other daemons": Check(daemon.others, _service),
    "figures": Check(daemon.degraded, _status),
    "configuration": Check(configuration.files, _always),
    "reload": Check(configuration.reload, _status),
    "footprints": Check(configuration.footprints, _status),
    "room": Check(configuration.room, _status),
    "coexistence": Check(configuration.coexistence, _files),
    "polkit": Check(permissions.polkit, _system_bus),
    "group": Check(permissions.group, _system),
    "driver": Check(driver.library, _driver),
    "device nodes": Check(driver.nodes, _module),
    "units": Check(units.present, _units),
    "names of units": Check(units.names, _seen_units),
    "restarts": Check(units.restarts, _seen_units),
    "kill mode": Check(units.kill_mode, _seen_units),
    "boot": Check(units.boot, _seen_units),
    "routes": Check(consumers.routes, _files),
    "consumers": Check(consumers.failing, _status),
}


def examine(facts: Facts) -> dict[str, list[Finding] | None]:
    """What each check found, by its name; None where there was nothing to look at."""
    return {name: list(check.find(facts)) if check.applies(facts) else None for name, check in CHECKS.items()}
