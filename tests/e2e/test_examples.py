"""Examples on a booted systemd: a unit that takes a lease in ExecStartPre=, and programs on the real system bus.

They run with the installed package, and with the D-Bus library of the booted Debian release.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.host import UNIT_DIR, Host

UNIT = "my-job.service"
EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / UNIT
UNIT_LEASE = """
from gpumand.client import SyncClient

with SyncClient() as client:
    print(client.acquire("comfyui", lifetime="unit", reason="python").id, flush=True)
"""
JOB = "/usr/local/bin/my-job"
WORK = "#!/bin/sh\necho working as $(id -un); exec sleep infinity\n"


@pytest.fixture(autouse=True)
def job(host: Host) -> Iterator[None]:
    """The example unit and its job, with the consumers comfyui and rival."""
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


def test_systemd_analyze_verify_accepts_the_unit(host: Host) -> None:
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


def test_job_without_a_lease_does_not_start_and_reports_the_reason(host: Host, client: Client) -> None:
    host.machine.write_file(f"{UNIT_DIR}/{UNIT}", EXAMPLE.read_text().replace("--timeout 5min", "--timeout 1s"))
    host.machine.systemctl("daemon-reload")
    client.acquire("rival")
    host.machine.systemctl("start", UNIT, check=False)
    assert host.machine.show(UNIT, "Result") == "exit-code"
    said = host.machine.journal(UNIT)
    assert "working" not in said.rpartition("Starting")[2]
    assert "rival" in said.rpartition("timed out")[2]
    host.machine.systemctl("reset-failed", UNIT)


@pytest.mark.parametrize("script", ["busctl-lease.sh", "gdbus-lease.sh"])
def test_shell_script_holds_a_lease_while_its_command_runs(host: Host, client: Client, script: str) -> None:
    command = ["sh", str(EXAMPLES / script), "comfyui", "sh", "-c", "echo $GPUMAND_LEASE; gpumanctl --json status"]
    lease, _, status = host.machine.run(command).stdout.partition("\n")
    assert [one["id"] for one in json.loads(status)["leases"]] == [lease]
    assert client.leases() == {}


def test_python_job_works_on_the_system_bus(host: Host, client: Client) -> None:
    done = host.machine.run(["/usr/bin/python3", str(EXAMPLES / "job_async.py"), "comfyui", "0.1"])
    assert done.stdout.startswith("working with comfyui")
    assert client.leases() == {}


def test_python_job_of_a_user_without_permission_is_refused(host: Host) -> None:
    command = ["/usr/bin/python3", str(EXAMPLES / "job_async.py"), "comfyui", "0.1"]
    done = host.machine.run(command, user="nobody", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no lease on comfyui: ")
    assert "Traceback" not in done.stderr


def test_lease_of_a_unit_taken_from_python_ends_with_the_unit(host: Host, client: Client) -> None:
    host.machine.write_file("/run/e2e-unit-lease.py", UNIT_LEASE)
    host.unit("python-job", "/bin/sh -c '/usr/bin/python3 /run/e2e-unit-lease.py && exec sleep infinity'")
    host.machine.systemctl("start", "python-job.service")
    (lease,) = host.machine.wait_until(lambda: list(client.leases().values()), "the lease is active")
    assert (lease["lifetime"], lease["owner"], lease["reason"]) == ("unit", "python-job.service", "python")
    host.machine.systemctl("stop", "python-job.service")
    await_no_lease(host, client)
    host.machine.remove("/run/e2e-unit-lease.py")
