"""The demonstration of a fleet runs, and shows what it promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TIMEOUT_SEC = 110
HOSTS = {"gpu1", "gpu2", "gpu3"}

needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (Debian: etcd-server)")


@contextmanager
def kept() -> Iterator[tuple[str, str]]:
    """The demonstration when it waits for Ctrl-C: what it has printed, and the address of its web page."""
    command = [sys.executable, "-m", "gpumand.demo.fleet", "--keep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        late = threading.Timer(TIMEOUT_SEC, demo.terminate)
        late.start()
        try:
            printed, page = "", None
            while page is None and (line := demo.stdout.readline()):
                printed += line
                page = re.search(r"run until Ctrl-C\. Web page: (\S+)", line)
            assert page is not None, printed
            yield printed, page[1]
        finally:
            late.cancel()
            demo.terminate()
            rest = demo.stdout.read()
    assert demo.returncode == 0, rest


def shown(page: str) -> dict[str, str]:
    """The state of each host in the document from which the web page is drawn."""
    with urllib.request.urlopen(f"{page}v1/fleet", timeout=30) as answer:
        return {one["row"]["name"]: one["state"] for one in json.load(answer)["fleet"]["hosts"]}


@needs_etcd
def test_fleet_demo_loads_each_consumer_once_and_survives_the_loss_of_a_host() -> None:
    with kept() as (printed, page):
        states = shown(page)
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert b'<section id="fleet"' in answer.read()

    assert "neither root nor network namespaces" in printed
    assert "find each other by etcd" in printed
    assert "3 of 3 hosts up" in printed
    assert f"{page} shows: gpu1 up, gpu2 up, gpu3 up" in printed
    assert printed.count("which loaded it") == 1
    assert printed.count("nothing was evicted") >= 2
    assert "the lease has ended (host-lost)" in printed
    assert "2 of 3 hosts up" in printed
    (lost,) = re.findall(r"^ 3\. (gpu\d) loses its power", printed, re.MULTILINE)
    (served,) = re.findall(r"asked again: a lease on (gpu\d)", printed)
    assert lost != served
    assert states == {host: "lost" if host == lost else "up" for host in HOSTS}


def test_fleet_demo_without_etcd_uses_hosts_that_ask_each_other(tmp_path: Path) -> None:
    program = shutil.which("dbus-daemon")
    assert program is not None
    (tmp_path / "dbus-daemon").symlink_to(program)
    command = [sys.executable, "-m", "gpumand.demo.fleet"]
    environ = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SEC, env=environ)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "etcd is not installed" in done.stdout
    assert "the hosts ask each other" in done.stdout
    assert "shows: gpu1 up, gpu2 up, gpu3 up" in done.stdout
    assert done.stdout.count("which loaded it") == 1
    assert "the lease has ended (host-lost)" in done.stdout
    (lost,) = re.findall(r"^ 3\. (gpu\d) loses its power", done.stdout, re.MULTILINE)
    assert re.findall(r"asked again: a lease on (gpu\d)", done.stdout) != [lost]
    assert " shows: " + ", ".join(f"{host} up" for host in sorted(HOSTS - {lost})) + "\n" in done.stdout
