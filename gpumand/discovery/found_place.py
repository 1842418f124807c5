"""Where a found service runs, in words: a unit, a container, the session of a user, or outside of all."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.discovery.launcher_units import starts_other_programs
from gpumand.discovery.matching import Candidate


def place(candidate: Candidate) -> str:
    """Where it runs, as the subject of a sentence."""
    if candidate.container is not None:
        title = candidate.container.title
        return f"{title} of {candidate.unit}" if candidate.unit else title
    if candidate.unit:
        return candidate.unit
    if launcher := _launcher(candidate):
        return f"a process that {launcher} has started"
    return "a process of a user's services" if _is_of_a_user(candidate) else "a process outside any service"


def short_place(candidate: Candidate) -> str:
    """Where it runs, to follow its name: "in ollama.service", "outside any service"."""
    if candidate.container is not None or candidate.unit:
        return f"in {place(candidate)}"
    if launcher := _launcher(candidate):
        return f"started by {launcher}"
    return "in a user's services" if _is_of_a_user(candidate) else "outside any service"


def place_comments(candidate: Candidate) -> Iterator[str]:
    """What follows from where it runs, as comments of the configuration."""
    if _is_of_a_user(candidate):
        yield "# This is a user service: only that user's gpumand can start and stop it. Run: gpumanctl init --user"
    if launcher := _launcher(candidate):
        yield f"# {launcher} starts other programs too, so that it is never stopped. Give the server a unit of its own."


def _is_of_a_user(candidate: Candidate) -> bool:
    return any(one.unit.startswith("user@") for one in candidate.processes)


def _launcher(candidate: Candidate) -> str:
    """The unit of many programs that has started it; "" without one, and for services of a user."""
    units = (one.unit for one in candidate.processes if not one.container and not one.unit.startswith("user@"))
    return next(filter(starts_other_programs, units), "")
