"""Converts answers of the container helper to values. They come from an engine and are checked as untrusted input."""

from __future__ import annotations

from typing import Any

from gpumand.domain.container import CONTAINER_ID, READ_LABELS, ContainerEngine, ContainerState, PublishedPort

MAX_TEXT = 256
MAX_ITEMS = 64
MAX_LINES = 5
MAX_PID = 2**22
MAX_PORT = 65535


class InvalidAnswer(ValueError):
    """An answer without a usable description of a container."""


def container_state(answer: Any) -> ContainerState:
    """Return the described container. Raises InvalidAnswer where engine, id or state are missing."""
    fields = answer if isinstance(answer, dict) else {}
    engine, container_id, running = fields.get("engine"), fields.get("id"), fields.get("running")
    if engine not in tuple(ContainerEngine) or not isinstance(running, bool):
        raise InvalidAnswer("engine or state is missing")
    if not isinstance(container_id, str) or not CONTAINER_ID.fullmatch(container_id):
        raise InvalidAnswer("the id is missing")
    texts = ("name", "restart_policy", "image", "network_mode", "status", "started_at", "error")
    return ContainerState(
        engine=str(engine),
        id=container_id,
        running=running,
        pid=_number(fields.get("pid"), MAX_PID) or 0,
        exit_code=None if running else _number(fields.get("exit_code"), 255),
        restarts=_number(fields.get("restarts"), 2**32) or 0,
        oom_killed=fields.get("oom_killed") is True,
        ports=tuple(port for one in _list(fields.get("ports")) if (port := _port(one)) is not None),
        addresses=tuple(_text(one) for one in _list(fields.get("addresses")) if _text(one)),
        labels=_labels(fields.get("labels")),
        **{key: _text(fields.get(key)) for key in texts},
    )


def lines_of(answer: Any) -> tuple[str, ...]:
    """Return the log lines of an answer, at most five, none of them empty."""
    lines = [_text(one) for one in _list(answer.get("lines") if isinstance(answer, dict) else None)]
    return tuple([line for line in lines if line][-MAX_LINES:])


def _port(value: Any) -> PublishedPort | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    outside, inside = _number(value[1], MAX_PORT), _number(value[2], MAX_PORT)
    return PublishedPort(_text(value[0]), outside, inside) if outside and inside else None


def _labels(value: Any) -> tuple[tuple[str, str], ...]:
    labels = value if isinstance(value, dict) else {}
    return tuple((key, _text(labels[key])) for key in READ_LABELS if _text(labels.get(key)))


def _list(value: Any) -> list[Any]:
    return value[:MAX_ITEMS] if isinstance(value, list) else []


def _number(value: Any, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in value[:MAX_TEXT]).strip()
