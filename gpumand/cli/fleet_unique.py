"""Warnings about consumers with ``fleet = "unique"`` that the configuration of this host does not protect."""

from __future__ import annotations

from pathlib import Path

from gpumand.config import DEFAULT_FILE, load
from gpumand.config.files import DROP_IN_NAME, MAIN_NAME
from gpumand.config.problems import ConfigProblems
from gpumand.domain.fleet import UNIQUE
from gpumand.fleet.settings import FleetConfig


def unique_warnings(folder: Path, settings: FleetConfig) -> list[str]:
    """Warnings, one line each. Files that cannot be read or are invalid are reported by their own checks. Blocks.

    Args:
        folder: the folder of the configuration, such as /etc/gpumand.
        settings: its fleet.toml.
    """
    names = ", ".join(_unique_consumers(folder))
    if not names:
        return []
    if settings.etcd is None:
        what = f'this fleet has static peers, so consumers with fleet = "unique" ({names}) are not leased through it'
        return [f"{what}. Set up etcd, or remove the key"]
    if _has_gateway_without_fleet(folder / "gateway.toml"):
        what = f"the gateway of this host does not use the fleet, so it loads {names} although another host may have it"
        return [f"{what}. Add enabled = true to [gateway.fleet] in {folder / 'gateway.toml'}"]
    return []


def _unique_consumers(folder: Path) -> list[str]:
    if not (folder / MAIN_NAME).exists() and not (folder / DROP_IN_NAME).is_dir():
        return []
    try:
        found = load(None if folder == DEFAULT_FILE.parent else folder).consumers
    except ConfigProblems:
        return []
    return sorted(name for name, one in found.items() if one.fleet == UNIQUE)


def _has_gateway_without_fleet(file: Path) -> bool:
    from gpumand.gateway import config

    if not file.exists():
        return False
    try:
        return not config.load(file).fleet.enabled
    except ConfigProblems:
        return False
