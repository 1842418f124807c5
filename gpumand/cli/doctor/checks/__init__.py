"""The doctor's checks in the order of the report. Must not import anything that does I/O: they judge ``Facts`` only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpumand.cli.doctor.checks import (
    configuration,
    consumers,
    container_engines,
    containers,
    daemon,
    devices,
    dmem,
    driver,
    gateway,
    listeners,
    other_hosts,
    permissions,
    units,
)
from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        find: yields its findings; none when everything is in order.
        applies: whether there is anything to check; if not, the report lists the check as skipped.
        group: what the check is about. The report does not list a check as passed beside a finding of its group.
    """

    find: Callable[[Facts], Iterator[Finding]]
    applies: Callable[[Facts], bool]
    group: str


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


def _has_consumers(facts: Facts) -> bool:
    return bool(facts.consumers or facts.entries)


def _has_settings(facts: Facts) -> bool:
    return facts.config.settings is not None


def _has_driver(facts: Facts) -> bool:
    return facts.driver is not None


def _has_kernel_module(facts: Facts) -> bool:
    return facts.driver is not None and bool(facts.driver.kernel_version)


def _has_cards(facts: Facts) -> bool:
    return facts.unread_cards is not None


def _has_dmem(facts: Facts) -> bool:
    return facts.dmem is not None


def _has_gateway(facts: Facts) -> bool:
    return facts.gateway is not None


def _has_units(facts: Facts) -> bool:
    return bool(facts.unit_names)


def _has_readable_units(facts: Facts) -> bool:
    return bool(facts.unit_names) and not facts.units_error


CHECKS: dict[str, Check] = {
    "bus": Check(daemon.bus, _always, "bus"),
    "daemon": Check(daemon.running, _has_bus, "daemon"),
    "name owner": Check(daemon.owner, _has_owner, "daemon"),
    "service": Check(daemon.service, _is_standard_bus, "daemon"),
    "version": Check(daemon.version, _has_status, "daemon"),
    "other daemons": Check(daemon.other_daemons, _is_standard_bus, "daemon"),
    "readings": Check(daemon.degraded, _has_status, "driver"),
    "other hosts at [http]": Check(other_hosts.at_status_address, _has_settings, "daemon"),
    "configuration": Check(configuration.files, _always, "configuration"),
    "reload": Check(configuration.reload, _has_status, "configuration"),
    "footprints": Check(configuration.footprints, _has_status, "footprints"),
    "room": Check(configuration.room, _has_status, "footprints"),
    "coexistence": Check(configuration.coexistence, _has_files, "configuration"),
    "polkit": Check(permissions.polkit, _is_system_bus, "permissions"),
    "group": Check(permissions.group, _is_system, "permissions"),
    "driver": Check(driver.library, _has_driver, "driver"),
    "device nodes": Check(driver.nodes, _has_kernel_module, "driver"),
    "drivers of cards": Check(devices.drivers, _has_cards, "devices"),
    "attribution of devices": Check(devices.attribution, _has_status, "devices"),
    "memory of devices": Check(devices.pool, _has_status, "devices"),
    "integrated GPUs": Check(devices.integrated, _has_status, "devices"),
    "VRAM by unit": Check(dmem.enabled, _has_dmem, "dmem"),
    "uncounted units": Check(dmem.counted, _has_dmem, "dmem"),
    "driver and kernel": Check(dmem.agreement, _has_dmem, "dmem"),
    "units": Check(units.present, _has_units, "units"),
    "unit names": Check(units.names, _has_readable_units, "units"),
    "restarts": Check(units.restarts, _has_readable_units, "units"),
    "kill mode": Check(units.kill_mode, _has_readable_units, "units"),
    "boot": Check(units.boot, _has_readable_units, "units"),
    "routes": Check(consumers.routes, _has_files, "consumers"),
    "busy checks": Check(consumers.busy_checks, _has_settings, "consumers"),
    "listeners": Check(listeners.own, _has_settings, "consumers"),
    "shared servers": Check(consumers.shared, _has_settings, "consumers"),
    "consumers": Check(consumers.failing, _has_status, "consumers"),
    "container helper": Check(containers.helper, _has_settings, "containers"),
    "container engines": Check(container_engines.reachable, _has_settings, "containers"),
    "containers": Check(containers.found, _has_settings, "containers"),
    "restart policies": Check(containers.restarts, _has_settings, "containers"),
    "container ports": Check(containers.ports, _has_settings, "containers"),
    "gateway": Check(gateway.reachable, _has_gateway, "gateway"),
    "gateway listeners": Check(gateway.listeners, _has_gateway, "gateway"),
    "other hosts at the gateway": Check(other_hosts.at_gateway, _has_gateway, "gateway"),
    "services behind the gateway": Check(gateway.services, _has_gateway, "gateway"),
    "attribution": Check(consumers.attribution, _has_consumers, "consumers"),
}


def examine(facts: Facts) -> dict[str, list[Finding] | None]:
    """Run all checks.

    Returns:
        Findings by name of the check; None for a check that does not apply.
    """
    return {name: list(check.find(facts)) if check.applies(facts) else None for name, check in CHECKS.items()}


def passed(results: Mapping[str, Sequence[Finding] | None]) -> list[str]:
    """Names of the checks without findings, except those of a group in which another check has one."""
    faulty = {CHECKS[name].group for name, ones in results.items() if ones}
    return [name for name, ones in results.items() if ones is not None and CHECKS[name].group not in faulty]
