"""A calibration as TOML to paste, and as plain values."""

from __future__ import annotations

import math
from typing import Any

from gpumand.cli.calibration import Calibration, Unload
from gpumand.cli.render.format import clean, usec
from gpumand.config.toml_writer import key
from gpumand.domain.eviction_check import SLACK_MIB

ROUND_MIB = 64
"""Footprints are given in steps of so much, upwards: no two loads are alike to the MiB."""

PATIENCE = 3
"""A load may take so many times as long as the longest that was seen."""

LEAST_TIMEOUT_SEC = 30


def rounded_up(mib: int, step: int = ROUND_MIB) -> int:
    """The next multiple of ``step``."""
    return math.ceil(mib / step) * step


def residual_mib(found: Calibration) -> int:
    """What stays after the unload route has done its work, as it is to be configured; 0 for nothing to speak of.

    A route that freed less than it left has not done its work.
    """
    routes = [one for one in found.unloads if one.method == "http"]
    stayed = [one.residual_mib for one in routes if one.residual_mib is not None and one.freed_mib > one.residual_mib]
    most = max(stayed, default=0)
    return rounded_up(most) if most > SLACK_MIB else 0


def load_timeout_sec(found: Calibration) -> int | None:
    """A limit for its loads; None where none was seen."""
    if not found.loads_usec:
        return None
    return max(LEAST_TIMEOUT_SEC, rounded_up(math.ceil(PATIENCE * max(found.loads_usec) / 1e6), 10))


def toml_lines(found: Calibration) -> list[str]:
    """Lines for gpumand.toml; what they come from stands in comments."""
    lines = [
        f"# measured: {found.steady_mib} MiB at rest, {found.peak_mib} MiB at most; it counted as {found.declared_mib}",
        *(f"# {line}" for line in map(_loaded, found.loads_usec)),
        *(f"# {line}" for line in map(_unloaded, found.unloads)),
        f"[consumers.{key(found.consumer)}]",
        f"vram_resident_mib = {rounded_up(found.peak_mib)}",
    ]
    residual, timeout = residual_mib(found), load_timeout_sec(found)
    lines += [f"residual_mib = {residual}"] if residual else []
    return [*lines, *([f"load_timeout_sec = {timeout}"] if timeout else [])]


def _loaded(took_usec: int) -> str:
    return f"loaded in {usec(took_usec)}"


def _unloaded(unload: Unload) -> str:
    method = clean(unload.method)
    stayed = "" if unload.residual_mib is None else f", {unload.residual_mib} MiB stayed"
    if not unload.error:
        return f"{method} freed {unload.freed_mib} MiB in {usec(unload.duration_usec)}{stayed}"
    freed = f" freed {unload.freed_mib} MiB{stayed}, and" if unload.freed_mib > SLACK_MIB else ""
    return f"{method}{freed} failed: {clean(unload.error)}"


def as_json(found: Calibration) -> dict[str, Any]:
    """All figures, and what to configure."""
    settings = {"vram_resident_mib": rounded_up(found.peak_mib)}
    if residual_mib(found):
        settings["residual_mib"] = residual_mib(found)
    timeout = load_timeout_sec(found)
    if timeout is not None:
        settings["load_timeout_sec"] = timeout
    return {
        "consumer": found.consumer,
        "declared_mib": found.declared_mib,
        "steady_mib": found.steady_mib,
        "peak_mib": found.peak_mib,
        "loads_usec": list(found.loads_usec),
        "unloads": [_plain(one) for one in found.unloads],
        "settings": settings,
    }


def _plain(unload: Unload) -> dict[str, Any]:
    plain: dict[str, Any] = {"method": unload.method, "freed_mib": unload.freed_mib}
    if unload.error:
        plain["error"] = unload.error
    else:
        plain["duration_usec"] = unload.duration_usec
    return plain if unload.residual_mib is None else plain | {"residual_mib": unload.residual_mib}
