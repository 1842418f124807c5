"""The daemon under systemd: watchdog, journal entries and log level."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gpumand.log.message_ids import MessageId
from tests.e2e.client import Client
from tests.e2e.host import DAEMON, Host

DROP_IN = f"/run/systemd/system/{DAEMON}.d/e2e.conf"
PERIOD_SEC = 3


@pytest.fixture
def with_drop_in(host: Host) -> Iterator[Host]:
    """The host; ``DROP_IN`` may change its unit during the test and is removed afterwards."""
    yield host
    host.machine.systemctl("stop", DAEMON, check=False)
    host.machine.remove(DROP_IN)
    host.machine.systemctl("daemon-reload")


def drop_in(host: Host, *lines: str) -> None:
    host.machine.write_file(DROP_IN, "\n".join(["[Service]", *lines, ""]))
    host.machine.systemctl("daemon-reload")


def entries(host: Host, message: MessageId) -> list[dict[str, str]]:
    """Return the journal entries of the running daemon with this message id."""
    only = [f"MESSAGE_ID={message.value}", f"_PID={host.machine.main_pid(DAEMON)}"]
    text = host.machine.run(["journalctl", "--no-pager", "--output=json", *only], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def test_watchdog_of_the_installed_unit_is_active(host: Host) -> None:
    host.start()
    assert host.machine.show(DAEMON, "WatchdogUSec") == "30s"
    assert host.machine.show(DAEMON, "WatchdogTimestampMonotonic") != "0"


def test_hanging_daemon_is_restarted_by_its_watchdog_and_keeps_its_lease(with_drop_in: Host, client: Client) -> None:
    host = with_drop_in
    drop_in(host, f"WatchdogSec={PERIOD_SEC}")
    host.holder("alpha", 1000)
    host.start()
    lease, _ = client.acquire("alpha")
    before = host.machine.main_pid(DAEMON)
    host.machine.run(["kill", "-STOP", str(before)])
    host.machine.wait_until(
        lambda: host.machine.main_pid(DAEMON) not in (0, before), "systemd restarted it", 4 * PERIOD_SEC
    )
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "active", "it is ready")
    assert f"{DAEMON}: Watchdog timeout" in host.machine.journal(DAEMON)
    assert list(client.leases()) == [lease]


def test_healthy_daemon_survives_many_watchdog_periods(with_drop_in: Host, client: Client) -> None:
    host = with_drop_in
    drop_in(host, "WatchdogSec=1")
    host.start()
    pid = host.machine.main_pid(DAEMON)
    began_usec = int(host.machine.show(DAEMON, "ActiveEnterTimestampMonotonic"))

    def pinged_late() -> bool:
        pinged_usec = int(host.machine.show(DAEMON, "WatchdogTimestampMonotonic"))
        return pinged_usec - began_usec > 5_000_000

    host.machine.wait_until(pinged_late, "it pinged five periods after its start", 20)
    assert host.machine.main_pid(DAEMON) == pid


def test_an_eviction_is_found_by_its_id_and_explained(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    lease, _ = client.acquire("beta")
    (entry,) = host.machine.wait_until(lambda: entries(host, MessageId.EVICTION), "the journal has the eviction")
    assert entry["GPUMAND_CONSUMER"] == "alpha"
    assert entry["GPUMAND_TRIGGER"] == "beta"
    assert entry["GPUMAND_METHOD"] == "unit-stop"
    assert entry["GPUMAND_FREED_MIB"] == entry["GPUMAND_EXPECTED_MIB"] == "10000"
    assert entry["GPUMAND_WHY"] in entry["MESSAGE"]
    assert entry["SYSLOG_IDENTIFIER"] == "gpumand"
    assert entry["PRIORITY"] == "6"
    assert entry["CODE_FILE"].endswith("gpumand/arbiter/jobs.py")
    grants = host.machine.wait_until(lambda: entries(host, MessageId.GRANT), "the journal has the grants")
    assert lease in [grant["GPUMAND_LEASE"] for grant in grants]
    assert "Subject: alpha was evicted from GPU memory" in explained(host, MessageId.EVICTION)
    assert f"Lease {lease} belongs to " in explained(host, MessageId.GRANT)


def test_a_refusal_is_in_the_journal(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    name, _ = client.refusal("Acquire", "alpha", "{'timeout_usec': <uint64 0>}")
    (entry,) = host.machine.wait_until(lambda: entries(host, MessageId.REFUSAL), "the journal has the refusal")
    assert entry["GPUMAND_CONSUMER"] == "alpha"
    assert entry["GPUMAND_ERROR"] == name
    assert name in explained(host, MessageId.REFUSAL)


def explained(host: Host, message: MessageId) -> str:
    """Return the text of ``journalctl --catalog`` for the last entry; checks that every placeholder has a value."""
    text = host.machine.run(
        ["journalctl", "--no-pager", "--catalog", "--lines=1", f"MESSAGE_ID={message.value}"]
    ).stdout
    assert "GPUMAND_" not in text
    return text


def test_an_eviction_that_failed_is_found_by_its_id_and_explained(host: Host, client: Client) -> None:
    host.server("alpha", 10000, 8131, "--fault=lying-unload")
    host.configure('evict = ["http"]')
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    client.refusal("Acquire", "beta", "{}")
    (entry,) = host.machine.wait_until(lambda: entries(host, MessageId.EVICTION_FAILED), "the journal has it")
    assert (entry["GPUMAND_CONSUMER"], entry["GPUMAND_TRIGGER"]) == ("alpha", "beta")
    assert (entry["GPUMAND_EXPECTED_MIB"], entry["GPUMAND_FREED_MIB"]) == ("10000", "0")
    assert entry["GPUMAND_WHY"] in entry["MESSAGE"]
    assert entry["GPUMAND_ERROR"] in explained(host, MessageId.EVICTION_FAILED)
    assert entry["PRIORITY"] == "3"


def test_a_driver_that_cannot_be_read_is_found_by_its_id_and_explained(host: Host, client: Client) -> None:
    host.gpu('source = "nvml"')
    host.start()
    (entry,) = host.machine.wait_until(lambda: entries(host, MessageId.DEGRADED), "the journal has it")
    assert entry["GPUMAND_ERROR"] == client.status()["degraded"] != ""
    assert entry["GPUMAND_ERROR"] in explained(host, MessageId.DEGRADED)
    assert entry["PRIORITY"] == "4"


def level(host: Host, *arguments: str, user: str = "") -> str:
    done = host.machine.run(["systemctl", "service-log-level", DAEMON, *arguments], user=user, check=False)
    return (done.stdout or done.stderr).strip()


def test_systemctl_sets_the_log_level_for_root_only(host: Host) -> None:
    host.start()
    assert level(host) == "info"
    assert level(host, "debug") == ""
    assert level(host) == "debug"
    assert "denied" in level(host, "err", user="nobody").lower()
    assert level(host) == "debug"
    assert host.machine.systemctl("service-log-target", DAEMON).strip() == "journal"
    host.machine.systemctl("reload", DAEMON)
    assert level(host) == "debug", "a reload does not change it"


def test_systemd_unit_can_start_the_daemon_with_debug_logging(with_drop_in: Host) -> None:
    drop_in(with_drop_in, "Environment=DEBUG_INVOCATION=1")
    with_drop_in.start()
    assert level(with_drop_in) == "debug"
