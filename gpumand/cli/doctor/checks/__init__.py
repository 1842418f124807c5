"""The doctor's checks in the order of the report. Must not import anything that does I/O: they judge ``Facts`` only."""

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
        find: yields its findings; none when everything is in order.
        applies: whether there is anything to check; if not, the report lists the check as skipped.
    """

    find: Callable[[Facts], Iterator[Finding]]
    applies: Callable[[Facts], bool]


def _always(_: Facts) -> bool:
    return True


def _has_bus(facts: Facts) -> bool:
    return not facts.bus.error


def _is_standard_bus(facts: Facts) -> bool:
    return not facts.bus.error and facts.bus.kind in ("system", "session")


def _is_system_bus(facts: Facts) -> bool:
    return facts.is_system and not facts.bus.error


def _has_owner(facts: Facts) -> bool:
    return facts.is_system and facts.bus.owner_uid is not None


def _is_system(facts: Facts) -> bool:
    return facts.is_system


def _has_status(facts: Facts) -> bool:
    return facts.status is not None


def _has_files(facts: Facts) -> bool:
    return facts.config.settings is not None or bool(facts.config.unreadable)


def _has_driver(facts: Facts) -> bool:
    return facts.driver is not None


def _has_kernel_module(facts: Facts) -> bool:
    return facts.driver is not None and bool(facts.driver.kernel_version)


def _has_units(facts: Facts) -> bool:
    return bool(facts.unit_names)


def _has_readable_units(facts: Facts) -> bool:
    return bool(facts.unit_names) and not facts.units_error


CHECKS: dict[str, Check] = {
    "bus": Check(daemon.bus, _always),
    "daemon": Check(daemon.running, _has_bus),
    "name owner": Check(daemon.owner, _has_owner),
    "service": Check(daemon.service, _is_standard_bus),
    "version": Check(daemon.version, _has_status),
    "other daemons": Check(daemon.other_daemons, _is_standard_bus),
    "readings": Check(daemon.degraded, _has_status),
    "configuration": Check(configuration.files, _always),
    "reload": Check(configuration.reload, _has_status),
    "footprints": Check(configuration.footprints, _has_status),
    "room": Check(configuration.room, _has_status),
    "coexistence": Check(configuration.coexistence, _has_files),
    "polkit": Check(permissions.polkit, _is_system_bus),
    "group": Check(permissions.group, _is_system),
    "driver": Check(driver.library, _has_driver),
    "device nodes": Check(driver.nodes, _has_kernel_module),
    "units": Check(units.present, _has_units),
    "unit names": Check(units.names, _has_readable_units),
    "restarts": Check(units.restarts, _has_readable_units),
    "kill mode": Check(units.kill_mode, _has_readable_units),
    "boot": Check(units.boot, _has_readable_units),
    "routes": Check(consumers.routes, _has_files),
    "consumers": Check(consumers.failing, _has_status),
}


def examine(facts: Facts) -> dict[str, list[Finding] | None]:
    """Run all checks.

    Returns:
        Findings by name of the check; None for a check that does not apply.
    """
    return {name: list(check.find(facts)) if check.applies(facts) else None for name, check in CHECKS.items()}
