"""Checks of the keys that locate a consumer's processes beside its unit: container, slice and cgroup."""

from __future__ import annotations

import re
from typing import Any

from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.table_schema import INVALID
from gpumand.config.value_types import InvalidValue
from gpumand.domain.cgroup_glob import MAX_PATTERN
from gpumand.domain.container import ContainerRef

LOCATORS = ("container", "slice", "cgroup")

SHARED_SLICES = ("-.slice", "system.slice", "user.slice", "machine.slice", "init.scope")
"""Cgroups that contain the processes of the whole host, so that no consumer may claim all of them."""

_SLICE = re.compile(r"[A-Za-z0-9:_.\\@]+(-[A-Za-z0-9:_.\\@]+)*\.slice")
_CGROUP = re.compile(r"(/[A-Za-z0-9:_.\\@*?%+=,~-]+)+")
_ONLY_WILDCARDS = re.compile(r"[/*?]*")


def container_name(text: str) -> str:
    """Check the name of a container, with an optional engine: ``comfyui``, ``docker:comfyui``, an id prefix."""
    try:
        return str(ContainerRef.parse(text))
    except ValueError as error:
        hint = text.removeprefix("/") if text.startswith("/") else ""
        raise InvalidValue(f"{quoted(text)} is not a container: {error}", hint) from None


def slice_name(text: str) -> str:
    """Check the name of a systemd slice that is not shared by the whole host."""
    if text in SHARED_SLICES:
        raise InvalidValue(f"{quoted(text)} contains services of the whole host: name a slice of the consumer's own")
    if not _SLICE.fullmatch(text) or len(text) > 255:
        raise InvalidValue(f"{quoted(text)} is not the name of a slice", "" if "." in text else f"{text}.slice")
    return text


def cgroup_pattern(text: str) -> str:
    """Check a pattern of cgroup paths below /sys/fs/cgroup; slashes at its end are removed."""
    mount = "/sys/fs/cgroup"
    if text.startswith(f"{mount}/"):
        raise InvalidValue(f"is a path below {mount}: write it without that", text.removeprefix(mount))
    text = text.rstrip("/")
    if not _CGROUP.fullmatch(text) or "/../" in f"{text}/" or len(text) > MAX_PATTERN:
        raise InvalidValue(f'{quoted(text)} is not a path of a cgroup: it starts with "/", as in /proc/PID/cgroup')
    if _ONLY_WILDCARDS.fullmatch(text) or text.strip("/*?") in SHARED_SLICES:
        raise InvalidValue(f"{quoted(text)} matches processes of the whole host: name a directory of the consumer")
    return text


def check_locators(keys: dict[str, Any], place: Place, problems: ProblemList) -> None:
    """Refuse more than one of the keys: which of them counts would depend on an order that nothing shows."""
    given = [key for key in LOCATORS if keys.get(key)]
    for key in given[1:]:
        if keys[key] is not INVALID:
            problems.add(place.at(key), f"cannot be combined with {given[0]}: remove one of the two")
