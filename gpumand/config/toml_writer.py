"""Writes values as TOML, for configuration snippets that the administrator can paste."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(value: Any) -> str:
    """Return a value as TOML on one line.

    Raises:
        TypeError: the value is a date, None, or of another type that presets do not use.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{toml_key(name)} = {to_toml(one)}" for name, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    raise TypeError(f"cannot write a {type(value).__name__} as TOML")


def toml_string(text: str) -> str:
    """Return a text as a TOML basic string."""
    # TOML accepts every escape of JSON. The one difference: TOML requires DEL to be escaped, and JSON does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Return a key, quoted if TOML requires it."""
    return name if _BARE.fullmatch(name) else toml_string(name)
