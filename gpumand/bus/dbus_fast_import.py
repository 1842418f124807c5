"""Imports dbus-fast without the Python binding of GLib, for processes that run for months.

dbus-fast 1.84, as in Debian 12, imports it where python3-gi is installed, for a class that gpumand does not use. It
takes 4 MB.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast

_GLIB = "gi"


def import_dbus_fast() -> None:
    """Import dbus-fast as if python3-gi were not installed; the rest of the process can import that as usual."""
    if "dbus_fast" in sys.modules or _GLIB in sys.modules:
        return
    sys.modules[_GLIB] = cast(Any, None)  # its import raises ImportError then
    try:
        importlib.import_module("dbus_fast")
    finally:
        del sys.modules[_GLIB]
