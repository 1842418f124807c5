"""The comparison with other system services runs on a booted system with the packages that gpumand needs."""

from __future__ import annotations

from tests.e2e.client import Client
from tests.e2e.container import REPOSITORY
from tests.e2e.host import Host

RUN = ("env", f"PYTHONPATH={REPOSITORY}", "PYTHONDONTWRITEBYTECODE=1", "/usr/bin/python3", "-m", "benchmarks.anchors")


def test_leases_are_compared_with_logind_and_a_missing_service_is_left_out(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.start()
    host.machine.systemctl("start", "alpha.service")
    client.await_residency("alpha", "resident")
    done = host.machine.run([*RUN, "--rounds", "1", "alpha"], timeout=60)
    lines = done.stdout.splitlines()
    assert lines[1].startswith("gpumand: Acquire + Release")
    assert lines[1].split().count("1.00") == 2
    assert any(line.startswith("logind: Inhibit + close + one round trip") for line in lines)
    assert "left out: power-profiles-daemon" in done.stderr
    assert client.leases() == {}
