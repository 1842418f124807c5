"""Reads the containers of this host for the doctor, with the rights of the caller. Blocking code."""

from __future__ import annotations

from dataclasses import replace

from gpumand.cli.doctor.facts import ContainerFacts, Facts, UnitFacts
from gpumand.config.presets import preset, preset_names
from gpumand.discovery.container_scan import running_containers, scan_containers, with_containers
from gpumand.discovery.host import Host, Process
from gpumand.discovery.matching import find_candidates
from gpumand.discovery.processes import command_line
from gpumand.discovery.sockets import listeners


def read_containers(helper: UnitFacts | None) -> ContainerFacts:
    """Read the running containers, and the presets that fit them.

    Args:
        helper: the unit ``HELPER``; None where systemd could not be asked.
    """
    states, error = running_containers()
    containers = scan_containers([state.pid for state in states if state.pid], states)
    ports, _ = listeners()
    commands = {pid: Process(pid, command=command_line(pid)) for one in containers for pid in one.pids}
    host = Host({}, with_containers(commands, containers), ports, containers=containers)
    candidates = find_candidates(host, [preset(name) for name in preset_names()])
    known = {one.container.key: one.preset.name for one in candidates if one.container and one.preset}
    return ContainerFacts(containers, known, error, frozenset(one.port for one in ports), helper)


def with_container_facts(facts: Facts) -> Facts:
    """The facts with the running containers; units are known already where systemd could be asked."""
    known = facts.containers or ContainerFacts()
    return replace(facts, containers=replace(read_containers(known.helper), engines=known.engines))
