"""Modules that processes which run for months import only when they are needed: they would cost memory all the time."""

from __future__ import annotations

import subprocess
import sys

import pytest

AIOHTTP = "from gpumand.http.aiohttp_import import import_aiohttp; import_aiohttp()"

GATEWAY = f"{AIOHTTP}; from gpumand.gateway import service as main, config; config.GatewaySettings()"
FLEET = f"{AIOHTTP}; from gpumand.fleet import process as main, config"
DAEMON = "from gpumand.daemon import daemon as main; import gpumand.config.builder"

APPLICATIONS = ("aiohttp.web", "aiohttp.web_app", "aiohttp.web_fileresponse", "aiohttp.web_urldispatcher")
RARE = ("argparse", "difflib", "importlib.resources", "multiprocessing", "unittest", "zoneinfo", "click", "rich")
CONSUMERS = ("gpumand.config.schema", "gpumand.config.consumer_schema", "gpumand.domain.request")

NOT_IMPORTED = [
    (GATEWAY, (*APPLICATIONS, *RARE, *CONSUMERS, "gpumand.ports", "gpumand.consumers.routes", "h11")),
    (GATEWAY, ("gpumand.gateway.console.console", "gpumand.gateway.console.site", "gpumand.gateway.console.feed")),
    (FLEET, (*APPLICATIONS, *RARE, *CONSUMERS, "gpumand.domain.consumer", "gpumand.domain.learning", "cryptography")),
    (DAEMON, ("attr", "attrs", "aiohttp", "h11", "yarl", "multidict", *RARE, "pynvml", "ctypes")),
]


@pytest.mark.parametrize(("program", "modules"), NOT_IMPORTED)
def test_a_process_imports_only_what_it_uses(program: str, modules: tuple[str, ...]) -> None:
    program += f"; main.parse_arguments([]); import sys; print(*(one for one in {modules!r} if one in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == []
