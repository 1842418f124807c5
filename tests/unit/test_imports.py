"""Modules that processes which run for months import only when they are needed: they would cost memory all the time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AIOHTTP = "from gpumand.http.aiohttp_import import import_aiohttp; import_aiohttp()"

GATEWAY = f"{AIOHTTP}; from gpumand.gateway import service as main, config; config.GatewaySettings()"
FLEET = f"{AIOHTTP}; from gpumand.fleet import process as main, config"
DAEMON = "from gpumand.daemon import daemon as main; import gpumand.config.builder"

APPLICATIONS = ("aiohttp.web", "aiohttp.web_app", "aiohttp.web_fileresponse", "aiohttp.web_urldispatcher")
RARE = ("argparse", "difflib", "importlib.resources", "multiprocessing", "unittest", "zoneinfo", "click", "rich")
SELDOM = ("urllib.request", "email.parser", "email.policy", "frozenlist._frozenlist")
CONSUMERS = ("gpumand.config.schema", "gpumand.config.consumer_schema", "gpumand.domain.request")

NOT_IMPORTED = [
    (GATEWAY, (*APPLICATIONS, *RARE, *CONSUMERS, "gpumand.ports", "gpumand.consumers.routes", "h11")),
    (GATEWAY, ("gpumand.gateway.console.console", "gpumand.gateway.console.site", "gpumand.gateway.console.feed")),
    (GATEWAY, SELDOM),
    (FLEET, (*SELDOM, "html.entities", "tempfile")),
    (FLEET, (*APPLICATIONS, *RARE, *CONSUMERS, "gpumand.domain.consumer", "gpumand.domain.learning", "cryptography")),
    (DAEMON, ("attr", "attrs", "aiohttp", "h11", "yarl", "multidict", *RARE, "pynvml", "ctypes")),
]


DBUS_FAST_1_84 = """
try:
    import gi
    has_glib = True
except ImportError:
    has_glib = False
"""
WITHOUT_GLIB = """
from gpumand.bus.dbus_fast_import import import_dbus_fast
import_dbus_fast()
import dbus_fast, gi
print(dbus_fast.has_glib)
"""


def test_dbus_fast_is_imported_without_glib_which_others_can_still_import(tmp_path: Path) -> None:
    for name, text in (("dbus_fast", DBUS_FAST_1_84), ("gi", "")):
        (tmp_path / f"{name}.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", WITHOUT_GLIB]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env={"PYTHONPATH": path})

    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(("program", "modules"), NOT_IMPORTED)
def test_a_process_imports_only_what_it_uses(program: str, modules: tuple[str, ...]) -> None:
    program += f"; main.parse_arguments([]); import sys; print(*(one for one in {modules!r} if one in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == []
