"""Two hosts without etcd: they ask each other, and each goes on alone when the other one is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fleet.live_fleet import Host, live_fleet, until

Fleet = dict[str, Host]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with live_fleet(tmp_path, {"gpu1": {"near": 6000}, "gpu2": {"far": 6000}}, []) as hosts:
        yield hosts


def where(host: Host, consumer: str) -> str:
    """The host that serves a command with a lease, or the error."""
    done = host.ctl("run", consumer, "--timeout", "5s", "--", "sh", "-c", 'echo "$GPUMAND_HOST"')
    return done.stdout.strip() or done.stderr


def test_two_hosts_without_etcd_serve_each_other_and_go_on_alone(fleet: Fleet) -> None:
    assert where(fleet["gpu1"], "far") == "gpu2"
    assert where(fleet["gpu2"], "near") == "gpu1"

    fleet["gpu2"].stop_agent()

    assert where(fleet["gpu1"], "near") == "gpu1"
    said = "the host that has far is not reachable at the moment: gpu2 (it has not been in the fleet for"
    until("the other host is missed", lambda: said in where(fleet["gpu1"], "far"), fleet["gpu1"].log.read_text)
    assert where(fleet["gpu1"], "near") == "gpu1"


def test_host_whose_peer_never_answers_serves_its_own_consumers(fleet: Fleet) -> None:
    for one in fleet.values():
        one.stop_agent()
    fleet["gpu1"].start_agent()

    until("its own consumer is served", lambda: where(fleet["gpu1"], "near") == "gpu1", fleet["gpu1"].log.read_text)
