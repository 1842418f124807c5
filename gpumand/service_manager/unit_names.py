"""Names of units. They come from root-owned configuration only, and are checked all the same."""

from __future__ import annotations

import re

from gpumand.ports import UnitFailed

MAX_CHARS = 255
_TYPES = "service|socket|target|device|mount|automount|swap|timer|path|slice|scope"
_NAME = re.compile(rf"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?\.(?:{_TYPES})")


def require_unit_name(unit: str) -> None:
    """Raise UnitFailed with reason "bad-name" for what systemd would not take as the name of a unit."""
    if len(unit) > MAX_CHARS or not _NAME.fullmatch(unit):
        raise UnitFailed(f"{unit[:MAX_CHARS]!r} is not the name of a unit", "bad-name")


def is_service(unit: str) -> bool:
    """Whether it is a .service, which has a Result and time limits."""
    return unit.endswith(".service")
