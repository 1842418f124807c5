"""Bad files in the daemon's state folder: each is moved to quarantine with a warning, and the start continues."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.client import Client
from tests.e2e.host import DAEMON, Host

STATE = "/run/gpumand"
LEASES = f"{STATE}/leases"


@dataclass(frozen=True)
class Bad:
    """A bad file in place of a lease.

    Attributes:
        what: description, shown by failures.
        shell: command that creates it; ``$1`` is its path, standard input is the file of a good lease.
        why: reason in the warning.
    """

    what: str
    shell: str
    why: str


BAD = (
    Bad("corrupt", r"printf '\000\377{' > $1", "it is not valid JSON"),
    Bad("truncated", "head --bytes=60 > $1", "it is not valid JSON"),
    Bad("empty", ": > $1", "it is empty"),
    Bad("of a later version", """sed 's/"format": 1/"format": 99/' > $1""", "its format is not 1"),
    Bad("another lease's", "cat > $1", "its name does not match the lease in it"),
    Bad("huge", "head --bytes=1000000 /dev/zero > $1", "it is larger than 64 KiB"),
    Bad("of another user", "echo '{}' > $1; chown nobody $1; chmod 0644 $1", "it belongs to uid 65534"),
    Bad("a folder", "mkdir -m 0777 $1; touch $1/file", "it is not a regular file"),
    Bad("a pipe", "mkfifo $1", "it is not a regular file"),
    Bad("a link", "ln -s /etc/shadow $1", "it cannot be read"),
)


@pytest.fixture
def lease(host: Host, client: Client) -> str:
    """A lease with a running owner, of a daemon that is stopped by a signal."""
    host.holder("alpha", 1000)
    host.start()
    lease, _ = client.acquire("alpha")
    host.machine.systemctl("kill", "--signal=STOP", DAEMON)  # nothing is written any more
    return lease


def start_again(host: Host) -> str:
    """Kill the daemon and wait until systemd has restarted it. Returns the journal of the new process."""
    before = host.machine.main_pid(DAEMON)
    host.machine.systemctl("kill", "--signal=KILL", DAEMON)
    host.machine.wait_until(lambda: host.machine.main_pid(DAEMON) not in (0, before), "systemd restarted it")
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "active", "it is ready")
    pid = host.machine.main_pid(DAEMON)

    def said() -> str:
        journal = host.machine.run(["journalctl", "--no-pager", "--output=cat", f"_PID={pid}"]).stdout
        return journal if "is ready" in journal else ""

    journal = host.machine.wait_until(said, "the journal has its messages")
    assert "Traceback" not in journal
    return journal


def lay(host: Host, path: str, shell: str, stdin: str = "") -> None:
    """Create a bad file with root permissions."""
    host.machine.run(["sh", "-c", f"set -- {shlex.quote(path)}; {shell}"], stdin=stdin)


def aside(host: Host) -> list[str]:
    """Return the original names of the files in quarantine."""
    return sorted(name.split("-", 1)[1] for name in host.machine.run(["ls", f"{STATE}/quarantine"]).stdout.split())


def kept(host: Host, lease: str) -> str:
    """Return the content of a lease file."""
    return host.machine.run(["cat", f"{LEASES}/{lease}.json"]).stdout


def test_bad_lease_files_are_moved_to_quarantine_and_the_good_lease_is_restored(
    host: Host, client: Client, lease: str
) -> None:
    for number, bad in enumerate(BAD):
        lay(host, f"{LEASES}/bad{number}.json", bad.shell, kept(host, lease))
    journal = start_again(host)
    assert list(client.leases()) == [lease]
    assert aside(host) == sorted(f"bad{number}.json" for number in range(len(BAD)))
    for number, bad in enumerate(BAD):
        (warning,) = [line for line in journal.splitlines() if f"{LEASES}/bad{number}.json" in line]
        assert f"is unusable and is moved to quarantine: {bad.why}" in warning, bad.what
    assert host.machine.run(["ls", LEASES]).stdout.split() == [f"{lease}.json"]


def test_bad_files_of_consumers_and_loads_are_moved_to_quarantine(host: Host, client: Client, lease: str) -> None:
    for kind in ("consumers", "loads"):
        for number, bad in enumerate(BAD):
            lay(host, f"{STATE}/{kind}/bad{number}.json", f"mkdir -p {STATE}/{kind}; {bad.shell}")
    start_again(host)
    assert list(client.leases()) == [lease]
    assert aside(host) == sorted(2 * [f"bad{number}.json" for number in range(len(BAD))])


def test_unexpected_files_are_moved_to_quarantine_and_unfinished_writes_are_removed(
    host: Host, client: Client, lease: str
) -> None:
    lay(host, f"{LEASES}/README", "echo hello > $1")
    lay(host, f"{LEASES}/.half.json.tmp", "echo '{' > $1")
    start_again(host)
    assert list(client.leases()) == [lease]
    assert aside(host) == ["README"]
    assert host.machine.run(["ls", "-A", LEASES]).stdout.split() == [f"{lease}.json"]


def test_file_that_cannot_be_moved_stays_with_a_warning(host: Host, client: Client, lease: str) -> None:
    lay(host, f"{LEASES}/roots.json", "mkdir -m 0700 $1")
    assert f"{LEASES}/roots.json cannot be moved to quarantine" in start_again(host)
    assert list(client.leases()) == [lease]


@pytest.mark.parametrize(
    "shell", ["echo hello > $1", "ln -s /etc $1", "ln -s /nowhere $1", "mkdir -m 0 $1; chown root $1"]
)
def test_file_in_place_of_the_lease_folder_is_moved_to_quarantine(
    host: Host, client: Client, lease: str, shell: str
) -> None:
    lay(host, LEASES, f"mv $1 {STATE}/away; {shell}")
    journal = start_again(host)
    assert client.leases() == {}
    assert f"{LEASES} is unusable and is moved to quarantine" in journal
    again, _ = client.acquire("alpha")
    assert list(client.leases()) == [again]


def test_leases_of_another_boot_or_another_bus_are_not_restored(host: Host, client: Client, lease: str) -> None:
    good: dict[str, Any] = json.loads(kept(host, lease))
    others = {
        "boot": {"boot_id": "00000000-0000-4000-8000-000000000000"},
        "bus": {"bus_id": "0" * 32, "lifetime": "connection"},
        "ours": {"bus_id": "0" * 32},
    }
    for name, change in others.items():
        lay(host, f"{LEASES}/{name}.json", "cat > $1", json.dumps(good | {"id": name} | change))
    host.machine.run(["chown", "--reference", f"{LEASES}/{lease}.json", *(f"{LEASES}/{name}.json" for name in others)])
    journal = start_again(host)
    assert "removed 1 ended lease of another boot" in journal
    assert "removed 1 ended lease of connections to another bus" in journal
    assert set(client.leases()) == {lease, "ours"}, "time alone ends a ttl lease"


def test_lease_of_an_unconfigured_consumer_is_not_restored(host: Host, client: Client, lease: str) -> None:
    good: dict[str, Any] = json.loads(kept(host, lease))
    lay(host, f"{LEASES}/gone.json", "cat > $1", json.dumps(good | {"id": "gone", "consumer": "removed"}))
    host.machine.run(["chown", "--reference", f"{LEASES}/{lease}.json", f"{LEASES}/gone.json"])
    assert "lease gone on removed is not restored" in start_again(host)
    assert list(client.leases()) == [lease]
