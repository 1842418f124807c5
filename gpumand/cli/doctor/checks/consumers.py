"""Checks of consumers: health and busy routes, attribution of memory, and reported errors."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning
from gpumand.config.toml_writer import toml_key
from gpumand.domain.shared_servers import shared_servers
from gpumand.domain.socket_url import split_socket_url

RUNNING = ("active", "activating", "reloading")


def routes(facts: Facts) -> Iterator[Finding]:
    """The health route of every running consumer answers."""
    if facts.config.settings is None:
        if facts.config.unreadable:
            why = "their URLs are in the configuration files, which cannot be read"
            yield unchecked("health routes of consumers", why, facts.ctl_as_root("doctor"))
        return
    for name, health in facts.routes.items():
        if not health.reachable:
            yield from _unreachable(facts, name, health.error, refused=health.refused)


def _unreachable(facts: Facts, name: str, error: str, *, refused: bool) -> Iterator[Finding]:
    """The finding for a health route that did not answer; none when the consumer's unit does not run."""
    spec = facts.consumers[name]
    unit = facts.units.get(spec.unit)
    if spec.unit and (unit is None or unit.active_state not in RUNNING):
        return
    path = spec.health.path if spec.health else ""
    command = _curl(spec.url, path)
    if refused and not spec.unit:
        yield note(f"{name}: nothing listens at {spec.url}", "its server is not running and gpumand cannot start it")
    elif refused:
        why = "its unit is running, so either its server is still starting or its url is wrong"
        yield warning(f"{name}: nothing listens at {spec.url}", why, command)
    else:
        yield problem(f"{name}: {error}", "gpumand cannot tell whether it is loaded", command)


def busy_checks(facts: Facts) -> Iterator[Finding]:
    """The busy route of every consumer with a loaded model answers as configured."""
    for name, report in facts.busy.items():
        if report.jobs is None and report.status:
            spec = facts.consumers[name]
            path = spec.busy.path if spec.busy else ""
            why = (
                "gpumand counts it as busy while clients are connected to it and sees no other work. The server may "
                "need another preset, such as llama-cpp-router for a llama-server without a model, or a flag that "
                "enables the route"
                if 400 <= report.status < 500
                else "gpumand does not see its work and may interrupt it"
            )
            yield warning(f"{name}: {report.error}", why, f"curl -sv {quote(spec.url + path)}")


def attribution(facts: Facts) -> Iterator[Finding]:
    """A consumer that manages its own memory has a unit, by which its memory is attributed to it."""
    for name, unit in _managed(facts):
        if not unit:
            yield warning(
                f"{name} has vram_managed = true, but no unit",
                "its memory cannot be attributed to it and counts twice, as its footprint and as memory of an unknown "
                "program, so requests for other consumers are refused while it holds memory",
                f'[consumers.{toml_key(name)}] unit = "NAME.service"   # for ollama also set model, and remove '
                "vram_managed",
            )


def _managed(facts: Facts) -> Iterator[tuple[str, str]]:
    """Consumers with ``vram_managed``, each with its unit, container or cgroup; else from the daemon's status."""
    if facts.consumers:
        managed = ((name, spec) for name, spec in facts.consumers.items() if spec.vram_managed)
        yield from ((name, spec.unit or spec.container or spec.slice or spec.cgroup) for name, spec in managed)
        return
    yield from ((name, str(one.get("unit") or "")) for name, one in facts.entries.items() if one.get("vram_managed"))


def _curl(url: str, path: str) -> str:
    socket = split_socket_url(url)
    if socket is None:
        return f"curl -sv {quote(url + path)}"
    return f"curl -sv --unix-socket {quote(socket[0])} {quote(f'http://localhost{socket[1]}{path}')}"


def shared(facts: Facts) -> Iterator[Finding]:
    """Consumers that share a server can be distinguished by their health checks."""
    for one in shared_servers(facts.consumers.values()):
        what, _, fix = str(one).rpartition(". ")
        yield warning(what, "gpumand may grant a lease on a model that is not loaded", fix)


def failing(facts: Facts) -> Iterator[Finding]:
    """The daemon reports no error for a consumer."""
    for name, entry in facts.entries.items():
        if entry.get("error"):
            yield warning(f"{name} is {entry['residency']}: {entry['error']}", "", facts.ctl(f"show {quote(name)}"))
