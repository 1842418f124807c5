"""``gpumanctl --fleet`` with two real hosts: a consumer that only one of them can serve is found from the other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fleet.live_fleet import Host, live_fleet, until
from tests.integration.fleet.plain_etcd import running_etcd
from tests.integration.fleet.tls_etcd import needs_etcd
from tests.integration.live import DEADLINE_SEC

pytestmark = needs_etcd

Fleet = dict[str, Host]


@pytest.fixture(scope="module")
def etcd_url() -> Iterator[str]:
    with running_etcd() as one:
        yield one.url


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, etcd_url: str) -> Iterator[Fleet]:
    """Two hosts: both have the consumer ``both``, and only the second has ``far``."""
    consumers = {"gpu1": {"both": 8000}, "gpu2": {"both": 8000, "far": 9000}}
    with live_fleet(tmp_path_factory.mktemp("fleet"), consumers, [etcd_url]) as hosts:
        yield hosts


def test_status_shows_all_hosts_and_marks_this_one(fleet: Fleet) -> None:
    done = fleet["gpu1"].ctl("status")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "2 of 2 hosts up" in lines[0]
    assert any(line.startswith("gpu1 (here)") and " up " in line for line in lines), done.stdout
    assert any(line.startswith("gpu2 ") for line in lines), done.stdout


def test_without_a_command_the_hosts_are_shown(fleet: Fleet) -> None:
    assert "2 of 2 hosts up" in fleet["gpu1"].ctl().stdout


def test_top_prints_one_frame(fleet: Fleet) -> None:
    done = fleet["gpu1"].ctl("top", "--once")

    assert (done.returncode, "gpu2" in done.stdout) == (0, True), done


def test_command_runs_with_a_lease_of_the_host_that_has_the_consumer(fleet: Fleet) -> None:
    script = 'echo "$GPUMAND_HOST $GPUMAND_CONSUMER"; gpumanctl_list'
    script = script.replace("gpumanctl_list", f"{sys.executable} -m gpumand.cli --fleet status --json")
    done = fleet["gpu1"].ctl("run", "far", "--", "sh", "-c", script)

    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.partition("\n")
    assert first == "gpu2 far"
    assert json.loads(rest)["hosts"]
    assert leases(fleet["gpu2"], "far") == 0, "the lease ends with the command"


def test_exit_status_of_the_command_is_passed_on(fleet: Fleet) -> None:
    assert (fleet["gpu1"].ctl("run", "far", "--", "sh", "-c", "exit 7")).returncode == 7


def leases(host: Host, consumer: str) -> int:
    command = [sys.executable, "-m", "gpumand.cli", f"--bus-address={host.gpumand.address}", "list", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return next(int(one["leases"]) for one in found if one["name"] == consumer)


def test_acquire_prints_the_host_and_holds_the_lease_until_it_is_ended(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "gpumand.cli", "--fleet", "acquire", "far"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=fleet["gpu1"].environment)
    assert process.stdout is not None
    assert process.stdout.readline().split()[0] == "gpu2"
    assert leases(fleet["gpu2"], "far") == 1

    def is_shown() -> bool:
        text = fleet["gpu1"].ctl("status").stdout.partition("LEASED")[2]
        return any(one.split()[:2] == ["gpu2", "far"] and " gpu1 " in one for one in text.splitlines())

    until("the status shows the lease, its host and the router", is_shown)
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_SEC) == 0
    process.stdout.close()

    def is_released() -> bool:
        return leases(fleet["gpu2"], "far") == 0

    until("the lease ended", is_released)


def test_plan_names_the_host_and_what_each_host_says(fleet: Fleet) -> None:
    text = fleet["gpu1"].ctl("plan", "far")
    document = fleet["gpu1"].ctl("plan", "far", "--json")

    assert text.stdout.startswith("far: gpu2"), text
    assert "gpu2 would grant it" in text.stdout
    assert json.loads(document.stdout)["host"] == "gpu2"


def test_load_on_a_host(fleet: Fleet) -> None:
    done = fleet["gpu1"].ctl("load", "both", "--on", "gpu2")

    assert (done.returncode, "both is loaded on gpu2" in done.stdout) == (0, True), done

    def is_shown() -> bool:
        hosts = fleet["gpu1"].hosts()
        return bool(hosts["gpu2"]["row"]["consumers"]["both"]["r"] == "resident")

    until("the host shows it as resident", is_shown)
    plan = fleet["gpu1"].ctl("plan", "both")
    assert plan.stdout.startswith("both: gpu2"), "a resident consumer is used where it is"


def test_drained_host_takes_no_new_requests_until_it_is_undrained(fleet: Fleet) -> None:
    done = fleet["gpu1"].ctl("drain", "gpu2")
    assert (done.returncode, "gpu2 is drained" in done.stdout) == (0, True), done
    try:

        def is_drained() -> bool:
            hosts = fleet["gpu1"].hosts()
            return bool(hosts["gpu2"]["state"] == "drained")

        until("it is shown as drained", is_drained)
        refused = fleet["gpu1"].ctl("acquire", "far", "--no-wait")
        assert (refused.returncode, "drained" in refused.stderr) == (1, True), refused
    finally:
        assert (fleet["gpu1"].ctl("undrain", "gpu2")).returncode == 0

    def is_up() -> bool:
        hosts = fleet["gpu1"].hosts()
        return bool(hosts["gpu2"]["state"] == "up")

    until("it is up again", is_up)
    assert (fleet["gpu1"].ctl("run", "far", "--", "true")).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("acquire", "nothing"), 4, "no host of the fleet has a consumer 'nothing'"),
        (("plan", "nothing"), 4, "gpumanctl --fleet"),
        (("load", "far", "--on", "gpu9"), 4, "the fleet has no host 'gpu9'; it has gpu1, gpu2"),
        (("drain", "gpu9"), 4, "the fleet has no host 'gpu9'"),
        (("evict", "far"), 2, "--fleet does not work with evict; it works with status, top,"),
        (("acquire", "--vram", "4G"), 2, "--vram does not work with --fleet"),
        (("acquire", "far", "--ttl", "5min"), 2, "--ttl does not work with --fleet"),
        (("acquire", "far", "--lifetime", "unit"), 2, "the lease lasts as long as this command"),
        (("plan", "far", "--bus-address", "unix:path=/x"), 2, "--fleet and --bus-address exclude each other"),
        (("run", "far", "--", "no-such-program"), 127, "command not found"),
    ],
)
def test_error_says_what_to_do(fleet: Fleet, arguments: tuple[str, ...], code: int, expected: str) -> None:
    done = fleet["gpu1"].ctl(*arguments)

    assert (done.returncode, expected in done.stderr, "Traceback" in done.stderr) == (code, True, False), done


def test_a_host_of_the_options_needs_fleet(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "gpumand.cli", "load", "far", "--on", "gpu2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, "--on needs --fleet" in done.stderr) == (2, True), done


@pytest.mark.parametrize(
    "arguments", [("status",), ("acquire", "far"), ("run", "far", "--", "true"), ("top", "--once")]
)
def test_without_an_agent_the_start_is_named(fleet: Fleet, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    one = fleet["gpu1"]
    alone = Host("x", one.gpumand, tmp_path / "none.sock", "", tmp_path / "log")

    done = alone.ctl(*arguments)

    assert (done.returncode, "Start it: systemctl start gpumand-fleet" in done.stderr) == (3, True), done
