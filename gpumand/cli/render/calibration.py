"""The result of ``calibrate``: configuration lines to paste, and plain values for ``--json``."""

from __future__ import annotations

import math
from typing import Any

from gpumand.cli.measurements import Calibration, Unload
from gpumand.cli.render.format import clean, usec
from gpumand.config.toml_writer import toml_key
from gpumand.domain.eviction_check import SLACK_MIB

ROUND_MIB = 64
"""Suggested footprints are rounded up to a multiple of this: two loads never use exactly the same memory."""

LOAD_TIMEOUT_FACTOR = 3
"""The suggested load timeout is this many times the longest load that was observed."""

MIN_LOAD_TIMEOUT_SEC = 30


def rounded_up(mib: int, step: int = ROUND_MIB) -> int:
    """The next multiple of ``step``."""
    return math.ceil(mib / step) * step


def residual_mib(calibration: Calibration) -> int:
    """The value to configure as ``residual_mib``: MiB that stay after the unload route; 0 when they are negligible.

    An unload that freed less than it left behind is ignored: it did not unload the model.
    """
    routes = [one for one in calibration.unloads if one.method == "http"]
    residuals = [
        one.residual_mib for one in routes if one.residual_mib is not None and one.freed_mib > one.residual_mib
    ]
    most = max(residuals, default=0)
    return rounded_up(most) if most > SLACK_MIB else 0


def load_timeout_sec(calibration: Calibration) -> int | None:
    """The value to configure as ``load_timeout_sec``; None when no load was observed."""
    if not calibration.loads_usec:
        return None
    return max(MIN_LOAD_TIMEOUT_SEC, rounded_up(math.ceil(LOAD_TIMEOUT_FACTOR * max(calibration.loads_usec) / 1e6), 10))


def toml_lines(calibration: Calibration) -> list[str]:
    """Lines for gpumand.toml, with the measurements they are derived from as comments."""
    lines = [
        f"# measured: {calibration.steady_mib} MiB at rest, {calibration.peak_mib} MiB at peak; "
        f"footprint so far: {calibration.declared_mib} MiB",
        *(f"# {line}" for line in map(_load_comment, calibration.loads_usec)),
        *(f"# {line}" for line in map(_unload_comment, calibration.unloads)),
        f"[consumers.{toml_key(calibration.consumer)}]",
        f"vram_resident_mib = {rounded_up(calibration.peak_mib)}",
    ]
    residual, timeout = residual_mib(calibration), load_timeout_sec(calibration)
    lines += [f"residual_mib = {residual}"] if residual else []
    return [*lines, *([f"load_timeout_sec = {timeout}"] if timeout else [])]


def _load_comment(took_usec: int) -> str:
    return f"loaded in {usec(took_usec)}"


def _unload_comment(unload: Unload) -> str:
    method = clean(unload.method)
    residual = "" if unload.residual_mib is None else f", {unload.residual_mib} MiB remained"
    if not unload.error:
        return f"{method} freed {unload.freed_mib} MiB in {usec(unload.duration_usec)}{residual}"
    freed = f" freed {unload.freed_mib} MiB{residual}, and" if unload.freed_mib > SLACK_MIB else ""
    return f"{method}{freed} failed: {clean(unload.error)}"


def as_json(calibration: Calibration) -> dict[str, Any]:
    """The measurements and the suggested settings as plain values."""
    settings = {"vram_resident_mib": rounded_up(calibration.peak_mib)}
    if residual_mib(calibration):
        settings["residual_mib"] = residual_mib(calibration)
    timeout = load_timeout_sec(calibration)
    if timeout is not None:
        settings["load_timeout_sec"] = timeout
    return {
        "consumer": calibration.consumer,
        "declared_mib": calibration.declared_mib,
        "steady_mib": calibration.steady_mib,
        "peak_mib": calibration.peak_mib,
        "loads_usec": list(calibration.loads_usec),
        "unloads": [_unload_json(one) for one in calibration.unloads],
        "settings": settings,
    }


def _unload_json(unload: Unload) -> dict[str, Any]:
    plain: dict[str, Any] = {"method": unload.method, "freed_mib": unload.freed_mib}
    if unload.error:
        plain["error"] = unload.error
    else:
        plain["duration_usec"] = unload.duration_usec
    return plain if unload.residual_mib is None else plain | {"residual_mib": unload.residual_mib}
