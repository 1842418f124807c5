"""The HTTP library is loaded by the first connection to a passed socket, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, socket, sys
from gpumand.domain.output_settings import HttpSettings
from gpumand.http.listener import HttpListener

async def main(path):
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(path)
    passed.listen(8)
    passed.setblocking(False)
    listener = HttpListener(lambda: None, [passed])
    await listener.open(HttpSettings())
    await asyncio.sleep(0)
    print("aiohttp" in sys.modules)
    for _ in range(2):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /nothing HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
        print((await reader.readline()).decode().strip())
        writer.close()
    print("aiohttp" in sys.modules)
    await listener.close()

async def unused(path):
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(path)
    passed.listen(8)
    listener = HttpListener(lambda: None, [passed])
    await listener.open(HttpSettings())
    await listener.close()
    print("aiohttp" in sys.modules, passed.fileno())

asyncio.run(globals()[sys.argv[1]](sys.argv[2]))
"""


def _run(function: str, folder: Path) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, function, str(folder / "socket")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_first_connection_loads_the_library_and_is_answered(tmp_path: Path) -> None:
    assert _run("main", tmp_path) == ["False", "HTTP/1.1 404 Not Found", "HTTP/1.1 404 Not Found", "True"]


def test_socket_without_a_connection_is_closed_at_the_end(tmp_path: Path) -> None:
    assert _run("unused", tmp_path) == ["False -1"]
