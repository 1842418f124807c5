"""Prolog and epilog of Slurm, run as slurmd runs them, with a real daemon and a simulated GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.testing.daemon import PrivateGpumand
from tests.integration.live import DEADLINE_SEC

HOOKS = Path(__file__).resolve().parents[2] / "contrib/slurm"


class Node:
    """A node of Slurm with a gpumand.

    Attributes:
        state: where the hooks keep the leases.
    """

    def __init__(self, gpumand: PrivateGpumand, folder: Path) -> None:
        self._gpumand, self.state = gpumand, folder / "state"
        self._settings = folder / "settings"
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "gpumanctl"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gpumand.cli "$@"\n', encoding="ascii")
        program.chmod(0o755)
        self._path = f"{programs}:{os.environ['PATH']}"

    def settings(self, text: str) -> None:
        self._settings.write_text(text, encoding="ascii")

    def hook(self, name: str, job: str = "7", *, bus: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"SLURM_JOB_ID": job, "SLURM_JOB_GPUS": "0", "GPUMAND_SLURM_STATE": str(self.state)}
        own |= {"GPUMAND_SLURM_SETTINGS": str(self._settings), "PATH": self._path}
        own |= {"GPUMAND_BUS_ADDRESS": bus or self._gpumand.address}
        command = ["sh", "-eu", str(HOOKS / f"gpumand-{name}")]
        return subprocess.run(
            command, env=os.environ | own | environment, capture_output=True, text=True, check=False, timeout=120
        )

    def leases(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "gpumand.cli", f"--bus-address={self._gpumand.address}", "status", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout)["leases"])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose GPU has room for the slot of Slurm, or for llm."""
    with PrivateGpumand({"slurm-slot": 16000, "llm": 16000}) as gpumand:
        yield Node(gpumand, tmp_path)


def test_job_has_a_lease_from_its_prolog_to_its_epilog(node: Node) -> None:
    end = int(time.time()) + 1000
    done = node.hook("prolog", SLURM_JOB_END_TIME=str(end))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (lease,) = node.leases()
    assert (lease["consumer"], lease["lifetime"], lease["reason"]) == ("slurm-slot", "ttl", "slurm 7")
    assert abs(lease["expires_usec"] / 1e6 - (end + 300)) < DEADLINE_SEC, "it ends some minutes after the job's limit"
    assert [one.name for one in node.state.iterdir()] == ["7"]
    assert node.hook("epilog").returncode == 0
    assert node.leases() == []
    assert list(node.state.iterdir()) == []


def test_repeated_prolog_of_a_job_gets_the_same_lease(node: Node) -> None:
    for _ in range(2):
        assert node.hook("prolog").returncode == 0
    assert len(node.leases()) == 1


def test_busy_gpu_does_not_fail_the_job_and_the_prolog_ends_in_time(node: Node, tmp_path: Path) -> None:
    node.settings("GPUMAND_WAIT_SEC=1\n")
    holder = node.hook("prolog", "1")
    assert holder.returncode == 0
    node.settings("GPUMAND_WAIT_SEC=1\nconsumer=llm\n")

    began = time.monotonic()
    done = node.hook("prolog", "2")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began < DEADLINE_SEC
    assert [one["reason"] for one in node.leases()] == ["slurm 1"]
    assert sorted(one.name for one in node.state.iterdir()) == ["1"]
    assert node.hook("epilog", "2").returncode == 0


def test_absent_gpumand_does_not_fail_the_job(node: Node) -> None:
    nowhere = "unix:path=/nonexistent/bus"
    assert node.hook("prolog", bus=nowhere).returncode == 0
    assert node.hook("epilog", bus=nowhere).returncode == 0
    assert node.hook("prolog", PATH="/usr/bin:/bin").returncode == 0, "gpumanctl is not installed"


def test_epilog_while_gpumand_is_away_leaves_the_lease_to_its_time_limit(node: Node) -> None:
    assert node.hook("prolog").returncode == 0
    assert node.hook("epilog", bus="unix:path=/nonexistent/bus").returncode == 0
    (lease,) = node.leases()
    assert lease["expires_usec"] > 0


@pytest.mark.parametrize("job", ["", "7/../x", "7 8", "$(id)", "-7"])
def test_what_is_no_number_of_a_job_is_ignored(node: Node, job: str) -> None:
    assert node.hook("prolog", job).returncode == 0
    assert node.hook("epilog", job).returncode == 0
    assert node.leases() == []
    assert not node.state.exists()


def test_job_without_a_gpu_needs_no_lease(node: Node) -> None:
    assert node.hook("prolog", SLURM_JOB_GPUS="").returncode == 0
    assert node.leases() == []


@pytest.mark.parametrize("end", ["", "tomorrow", "1", "9999999999", "99999999999999999999"])
def test_end_time_that_makes_no_sense_gives_a_lease_with_a_limit(node: Node, end: str) -> None:
    assert node.hook("prolog", SLURM_JOB_END_TIME=end).returncode == 0
    (lease,) = node.leases()
    assert abs(lease["expires_usec"] / 1e6 - time.time() - 86400) < DEADLINE_SEC


def test_broken_settings_do_not_fail_the_job(node: Node) -> None:
    node.settings("consumer=(((\n")
    assert node.hook("prolog").returncode == 0
