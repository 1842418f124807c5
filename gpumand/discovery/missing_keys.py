"""What a generated configuration still needs before its consumers can be leased."""

from __future__ import annotations

import tomllib

from gpumand.config.presets import Preset, preset

ROUTE_TABLES = {"health", "busy", "load", "unload"}
"""Tables of a consumer that need its ``url``."""


def missing_keys(text: str) -> list[str]:
    """The missing keys of a generated configuration, as ``comfyui: vram_resident_mib``.

    Args:
        text: the configuration as ``starting_configuration`` returns it.
    """
    consumers = tomllib.loads(text).get("consumers", {})
    return [f"{name}: {key}" for name, keys in consumers.items() for key in _missing_of(keys)]


def _missing_of(keys: dict[str, object]) -> list[str]:
    one = preset(str(keys["preset"]))
    missing = ["model"] if one.about.model == "required" and "model" not in keys else []
    missing += ["url"] if "url" not in keys and needs_url(one) else []
    return missing + (["vram_resident_mib"] if "vram_resident_mib" not in keys else [])


def needs_url(one: Preset) -> bool:
    """Whether a consumer with this preset has to configure its URL."""
    keys = one.document.table["consumer"]
    return "url" not in keys and bool(ROUTE_TABLES & keys.keys())
