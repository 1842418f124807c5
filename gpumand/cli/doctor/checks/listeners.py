"""Check of the programs that listen at the addresses of consumers: those of their units, as far as that can be seen."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from gpumand.cli.doctor.facts import Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding, warning
from gpumand.domain.cgroups import place_of

FORWARDING = (
    "init.scope",
    "docker",
    "containerd",
    "podman",
    "libpod",
    "netavark",
    "rootlesskit",
    "snap.docker",
    "crio",
    "k3s",
    "kubelet",
    "lxd",
    "lxc",
    "incus",
    "machine",
)
"""Beginnings of the names of cgroups whose sockets serve others: socket units, and the ports of containers."""


def own(facts: Facts) -> Iterator[Finding]:
    """The unit of a consumer, and not another program, listens at its url.

    There is no finding where the listening program is unknown, and none for a proxy in front of a unit whose processes
    hold VRAM.
    """
    for name, paths in facts.listeners.items():
        unit = facts.units.get(facts.unit_names.get(name, ""))  # of systemd itself: others report no control group
        if unit is None or unit.control_group is None or any(one.endswith(".socket") for one in unit.triggered_by):
            continue
        programs = {_other_program(path, unit) for path in paths}
        holds_memory = unit.control_group and facts.entries.get(name, {}).get("used_mib")
        if programs and "" not in programs and not holds_memory:
            yield _finding(facts, name, unit, " and ".join(sorted(programs)))


def _other_program(path: str, unit: UnitFacts) -> str:
    """The unit or scope of a cgroup that is not the consumer's; "" where it is, or where that is unknown."""
    place, parts = place_of(path), path.split("/")
    program = place.user_unit or place.unit
    is_below = bool(unit.control_group) and f"{path}/".startswith(f"{unit.control_group}/")
    is_own = is_below or not {unit.name, unit.id or unit.name}.isdisjoint(parts)
    is_forwarded = place.container is not None or any(part.startswith(FORWARDING) for part in parts)
    return "" if not program or is_own or is_forwarded else program


def _finding(facts: Facts, name: str, unit: UnitFacts, programs: str) -> Finding:
    url = facts.consumers[name].url
    answers = f"gpumand and clients take its answers for those of {name}"
    if not unit.control_group:
        answers += f", and a server that {unit.name} starts cannot listen there"
    why = f"{answers}. If it forwards requests to {unit.name}, set url to the address of the server itself"
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    what = f"{name}: {programs} listens at {url}, and {unit.name} does not"
    return warning(what, why, facts.root(f"ss -ltnp 'sport = :{port}'"))
