"""The demonstration of a fleet runs, and shows what it promises."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

TIMEOUT_SEC = 110


@pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (Debian: etcd-server)")
def test_fleet_demo_loads_each_consumer_once_and_survives_the_loss_of_a_host() -> None:
    command = [sys.executable, "-m", "gpumand.demo.fleet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SEC)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 hosts up" in done.stdout
    assert done.stdout.count("which loaded it") == 1
    assert done.stdout.count("nothing was evicted") >= 2
    assert "the lease has ended (host-lost)" in done.stdout
    assert "2 of 3 hosts up" in done.stdout
    (lost,) = re.findall(r"^ 3\. (gpu\d) loses its power", done.stdout, re.MULTILINE)
    (served,) = re.findall(r"asked again: a lease on (gpu\d)", done.stdout)
    assert lost != served
