"""Several hosts on one machine: each has a real gpumand on a private bus, with simulated consumers, and an agent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.tls_etcd import free_port
from tests.integration.live import DEADLINE_SEC

ALL_RIGHTS = ["acquire", "plan", "load", "drain"]


@dataclass
class Host:
    """One host.

    Attributes:
        name: its name in the fleet.
        gpumand: its daemon.
        socket: the socket of its agent.
        url: URL of its agent.
        agent: the process of its agent.
    """

    name: str
    gpumand: PrivateGpumand
    socket: Path
    url: str
    log: Path
    config: dict[str, Any] = field(default_factory=dict)
    agent: subprocess.Popen[bytes] | None = None

    @property
    def machine_id(self) -> str:
        return str(self.config["machine_id"])

    def start_agent(self) -> None:
        """Start the agent."""
        command = [sys.executable, "-m", "tests.integration.fleet.agent_process", json.dumps(self.config)]
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(command, stdout=log, stderr=log)

    def stop_agent(self) -> None:
        """End the agent without waiting for leases."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
            self.agent = None

    def ctl(self, *arguments: str, timeout_sec: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run gpumanctl --fleet on this host."""
        command = [sys.executable, "-m", "gpumand.cli", "--fleet", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment, timeout=timeout_sec
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment of clients on this host."""
        return {name: one for name, one in os.environ.items() if name != "GPUMAND_BUS_ADDRESS"} | {
            "GPUMAND_FLEET": str(self.socket)
        }

    def hosts(self) -> dict[str, Any]:
        """What gpumanctl --fleet status shows, by name of the host."""
        done = self.ctl("status", "--json")
        assert done.returncode == 0, (done.stderr, self.log.read_text(encoding="utf-8"))
        return {one["row"].get("name", ""): one for one in json.loads(done.stdout)["hosts"]}


@contextlib.contextmanager
def live_fleet(
    folder: Path,
    consumers: Mapping[str, Mapping[str, int]],
    endpoints: list[str],
    *,
    each: Callable[[Host], dict[str, Any]] = lambda host: {},
    **config: Any,
) -> Iterator[dict[str, Host]]:
    """Run hosts with an agent each, and wait until every one knows all others.

    Args:
        folder: an empty folder.
        consumers: MiB of each consumer, by host.
        endpoints: URLs of etcd; [] = the hosts ask each other.
        each: returns attributes of the FleetConfig of one host.
        config: further attributes of each FleetConfig.
    """
    with contextlib.ExitStack() as stack:
        hosts: dict[str, Host] = {}
        for number, (name, sizes) in enumerate(consumers.items(), start=1):
            gpumand = stack.enter_context(PrivateGpumand(sizes))
            url = f"http://127.0.0.1:{free_port()}"
            hosts[name] = Host(name, gpumand, folder / f"{name}.sock", url, folder / f"{name}.log")
            hosts[name].config = agent_config(hosts[name], number, endpoints) | config
            hosts[name].config |= each(hosts[name])
        for one in hosts.values():
            if not endpoints:
                one.config["peers"] = {other.name: other.url for other in hosts.values() if other is not one}
            one.start_agent()
            stack.callback(one.stop_agent)
        for one in hosts.values():
            until_all_up(one, set(hosts))
        yield hosts


def agent_config(host: Host, number: int, endpoints: list[str]) -> dict[str, Any]:
    return {
        "host": host.name,
        "machine_id": f"{number:032x}",
        "url": host.url,
        "listen": [host.url.removeprefix("http://")],
        "socket": str(host.socket),
        "bus": host.gpumand.address,
        "etcd": endpoints,
        "allow": {"*": ALL_RIGHTS},
    }


def until_all_up(host: Host, names: set[str]) -> None:
    """Wait until a host shows all hosts as up. Raises AssertionError with its log."""

    def is_up() -> bool:
        done = host.ctl("status", "--json")
        shown = json.loads(done.stdout)["hosts"] if done.returncode == 0 else []
        return {one["row"].get("name") for one in shown if one["state"] == "up"} == names

    until("all hosts are up", is_up, lambda: host.log.read_text(encoding="utf-8"))


def until(what: str, condition: Callable[[], bool], facts: Callable[[], object] = str) -> None:
    """Wait until a condition holds. Raises AssertionError with the facts."""
    deadline = time.monotonic() + DEADLINE_SEC
    while not condition():
        assert time.monotonic() < deadline, (what, facts())
        time.sleep(0.1)
