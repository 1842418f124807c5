"""The example of a unit that takes its lease in ExecStartPre=, on a booted systemd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.host import UNIT_DIR, Host

UNIT = "my-job.service"
EXAMPLE = Path(__file__).parents[2] / "examples" / UNIT
JOB = "/usr/local/bin/my-job"
WORK = "#!/bin/sh\necho working as $(id -un); exec sleep infinity\n"


@pytest.fixture(autouse=True)
def job(host: Host) -> Iterator[None]:
    """The example as it stands, its job, and a ComfyUI with a rival."""
    host.holder("comfyui", 13312)
    host.holder("rival", 16000)
    host.machine.write_file(f"{UNIT_DIR}/{UNIT}", EXAMPLE.read_text())
    host.machine.write_file(JOB, WORK, "0755")
    host.machine.systemctl("daemon-reload")
    host.start()
    yield
    host.machine.systemctl("stop", UNIT, check=False)
    host.machine.remove(f"{UNIT_DIR}/{UNIT}", JOB)
    host.machine.systemctl("daemon-reload")


def await_no_lease(host: Host, client: Client) -> None:
    host.machine.wait_until(lambda: not client.leases(), "the lease has ended")


def test_systemd_finds_nothing_wrong_with_it(host: Host) -> None:
    done = host.machine.run(["systemd-analyze", "verify", f"{UNIT_DIR}/{UNIT}"])
    assert done.stderr == ""


def test_job_runs_under_a_lease_that_ends_with_it(host: Host, client: Client) -> None:
    host.machine.systemctl("start", UNIT)
    (lease,) = client.leases().values()
    assert (lease["consumer"], lease["lifetime"], lease["reason"]) == ("comfyui", "unit", UNIT)
    assert lease["owner"] == UNIT
    assert host.machine.show("comfyui.service", "ActiveState") == "active"
    assert "working as my-job" in host.machine.journal(UNIT)
    host.machine.systemctl("stop", UNIT)
    await_no_lease(host, client)


def test_job_that_is_killed_leaves_no_lease(host: Host, client: Client) -> None:
    host.machine.systemctl("start", UNIT)
    assert client.leases()
    host.machine.systemctl("kill", "--signal=KILL", UNIT)
    await_no_lease(host, client)


def test_job_evicts_what_is_in_the_way_but_not_what_is_leased(host: Host, client: Client) -> None:
    client.use("rival", 16000)
    host.machine.systemctl("start", UNIT)
    assert host.machine.show("rival.service", "ActiveState") == "inactive"
    assert client.refusal("Acquire", "rival", "{'timeout_usec': <uint64 0>}")[0].endswith(".Busy")


def test_job_does_not_start_without_its_lease_and_says_why(host: Host, client: Client) -> None:
    host.machine.write_file(f"{UNIT_DIR}/{UNIT}", EXAMPLE.read_text().replace("--timeout 5min", "--timeout 1s"))
    host.machine.systemctl("daemon-reload")
    client.acquire("rival")
    host.machine.systemctl("start", UNIT, check=False)
    assert host.machine.show(UNIT, "Result") == "exit-code"
    said = host.machine.journal(UNIT)
    assert "working" not in said.rpartition("Starting")[2]
    assert "rival" in said.rpartition("gpumanctl")[2]
    host.machine.systemctl("reset-failed", UNIT)
