"""Checks names of systemd units, although they come only from configuration that root owns."""

from __future__ import annotations

import re

from gpumand.ports import UnitFailed

MAX_CHARS = 255
_TYPES = "service|socket|target|device|mount|automount|swap|timer|path|slice|scope"
_NAME = re.compile(rf"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?\.(?:{_TYPES})")


def is_unit_name(unit: str) -> bool:
    """Whether systemd would accept a text as the name of a unit that can be loaded."""
    return len(unit) <= MAX_CHARS and _NAME.fullmatch(unit) is not None


def require_unit_name(unit: str) -> None:
    """Raise UnitFailed with reason "bad-name" for text that systemd would not accept as the name of a unit."""
    if not is_unit_name(unit):
        raise bad_unit_name(unit)


def bad_unit_name(unit: str) -> UnitFailed:
    """The failure of every operation on a text that is not the name of a unit."""
    return UnitFailed(f"{unit[:MAX_CHARS]!r} is not the name of a unit", "bad-name")


def is_service(unit: str) -> bool:
    """Whether the unit is a service; only services have a Result and time limits."""
    return unit.endswith(".service")
