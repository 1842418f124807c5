"""The confined daemon names foreign processes that hold VRAM: process, user, unit and MiB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.host import Host, holding
from tests.e2e.machine import Machine

# A uid that an ordinary user has and one of a directory service.
USERS = {"e2e-alice": 1500, "e2e-domain-user": 1_234_567}


@pytest.fixture(scope="session")
def machine(each_debian: Machine) -> Machine:
    """Run on each Debian release: user namespaces differ between versions of systemd."""
    return each_debian


@pytest.fixture(autouse=True)
def users(host: Host) -> Iterator[None]:
    """Users of the host that the confined daemon must know by name."""
    for name, uid in USERS.items():
        host.machine.run(["useradd", "--no-create-home", f"--uid={uid}", "--no-user-group", name])
    yield
    for name in USERS:
        host.machine.run(["userdel", "--force", name])


@pytest.mark.parametrize("user", USERS)
def test_a_foreign_service_of_an_ordinary_user_is_named_with_that_user(host: Host, client: Client, user: str) -> None:
    host.unit("game", holding("game", 15000), f"User={user}")
    host.holder("alpha", 16000)
    host.start()
    host.machine.systemctl("start", "game.service")
    host.machine.wait_until(lambda: client.status()["devices"][0]["foreign"], "the game's memory is seen")

    refused = host.machine.run(["gpumanctl", "acquire", "alpha"], check=False)

    pid = host.machine.main_pid("game.service")
    assert refused.returncode == 1
    assert f"14.6 GiB by game (user {user}, unit game.service, pid {pid})" in refused.stderr
    (foreign,) = client.status()["devices"][0]["foreign"]
    assert {key: foreign[key] for key in ("pid", "uid", "user", "unit", "used_mib")} == {
        "pid": pid,
        "uid": USERS[user],
        "user": user,
        "unit": "game.service",
        "used_mib": 15000,
    }
    assert f"foreign: 14.6 GiB by game (user {user}" in host.machine.run(["gpumanctl", "status"]).stdout


def test_a_user_without_a_name_is_a_uid_and_not_the_overflow_user(host: Host, client: Client) -> None:
    host.unit("game", f"/usr/bin/setpriv --reuid=4242 --clear-groups {holding('game', 15000)}")
    host.holder("alpha", 8000)
    host.start()
    host.machine.systemctl("start", "game.service")
    host.machine.wait_until(lambda: client.status()["devices"][0]["foreign"], "the game's memory is seen")
    (foreign,) = client.status()["devices"][0]["foreign"]
    assert (foreign["uid"], foreign["user"]) == (4242, "")
