"""Finds a container that Compose has renamed: ``0123456789ab_NAME`` instead of ``NAME``.

Compose puts the beginning of an id in front of a name while it creates a container again. Where that fails midway, one
of the two containers keeps that name, and several failures put several ids in front (docker/compose, issues 10460 and
13391). The container may run and hold VRAM, although its engine has none of the configured name.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from gpumand.root_helpers.container_engine import Engine, Refused, described, plain_text
from gpumand.root_helpers.trusted_files import table

SERVICE_LABEL = "com.docker.compose.service"
"""The label by which a container is one of Compose, also of podman-compose."""

CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
# The same as in gpumand/domain/container.py: what runs as root imports nothing of gpumand outside this package.
PREFIX = r"(?:[0-9a-f]{10,12}_){1,20}"
MAX_LISTED = 256
MAX_CANDIDATES = 8


def find_renamed(engine: Engine, wanted: str) -> dict[str, Any] | None:
    """The container that has the wanted name behind ids, as ``described`` reports it; None without one.

    One that runs comes before others, since it may hold memory; otherwise the newest one counts.

    Raises:
        Refused: the engine does not answer, or several such containers run.
    """
    states = list(_described(engine, wanted, _listed(engine, wanted)))
    running = [state for state in states if state["running"]]
    if len(running) > 1:
        names = ", ".join(str(state["name"]) for state in running)
        raise Refused(
            f"several containers of Compose run in place of {wanted}: {names}. Stop all but one: "
            f"{engine.name} stop NAME",
            "ambiguous",
        )
    return next(iter(running or states), None)


def is_renamed(name: str, wanted: str) -> bool:
    """Whether a name is the wanted one with ids in front."""
    return re.fullmatch(PREFIX + re.escape(wanted), name) is not None


def _listed(engine: Engine, wanted: str) -> Sequence[Any]:
    """What the engine lists, running or not, the newest first; untrusted."""
    filters = json.dumps({"name": [f"_{re.escape(wanted)}$"], "label": [SERVICE_LABEL]})
    query = urllib.parse.urlencode({"all": "true", "filters": filters})
    try:
        answer = json.loads(engine.call("GET", f"/containers/json?{query}"))
    except (ValueError, RecursionError):
        raise Refused(f"{engine.name} sent a list that is not JSON", "failed") from None
    found = [table(one) for one in (answer if isinstance(answer, list) else [])[:MAX_LISTED]]
    return sorted(found, key=_created, reverse=True)


def _created(entry: dict[str, Any]) -> float:
    created = entry.get("Created")
    return created if isinstance(created, int | float) and not isinstance(created, bool) else 0.0


def _described(engine: Engine, wanted: str, listed: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The states of the renamed containers. An engine filters by patterns of its own, so that all is checked again."""
    ids = [plain_text(one.get("Id")) for one in listed if _has_name(one, wanted)]
    for container_id in [one for one in ids if CONTAINER_ID.fullmatch(one)][:MAX_CANDIDATES]:
        try:
            answer = json.loads(engine.call("GET", f"/containers/{container_id}/json"))
        except Refused as refused:
            if refused.reason == "not-found":  # Compose has just removed it
                continue
            raise
        except (ValueError, RecursionError):
            raise Refused(f"{engine.name} sent an answer that is not JSON", "failed") from None
        state = described(engine.name, table(answer))
        if state["id"] == container_id and is_renamed(state["name"], wanted) and state["labels"].get(SERVICE_LABEL):
            yield state


def _has_name(entry: dict[str, Any], wanted: str) -> bool:
    names = entry.get("Names")
    listed = [plain_text(one).removeprefix("/") for one in (names if isinstance(names, list) else [])[:MAX_CANDIDATES]]
    return any(is_renamed(name, wanted) for name in listed)
