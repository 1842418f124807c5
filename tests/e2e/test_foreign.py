"""The confined daemon names foreign processes that hold VRAM: process, user, unit and MiB."""

from __future__ import annotations

from tests.e2e.client import Client
from tests.e2e.host import Host, holding


def test_a_foreign_service_of_another_user_is_named(host: Host, client: Client) -> None:
    host.unit("game", holding("game", 15000), "User=nobody")
    host.holder("alpha", 16000)
    host.start()
    host.machine.systemctl("start", "game.service")
    host.machine.wait_until(lambda: client.status()["devices"][0]["foreign"], "the game's memory is seen")

    refused = host.machine.run(["gpumanctl", "acquire", "alpha"], check=False)

    pid = host.machine.main_pid("game.service")
    assert refused.returncode == 1
    assert f"14.6 GiB by game (user nobody, unit game.service, pid {pid})" in refused.stderr
    (foreign,) = client.status()["devices"][0]["foreign"]
    assert {key: foreign[key] for key in ("pid", "user", "unit", "used_mib")} == {
        "pid": pid,
        "user": "nobody",
        "unit": "game.service",
        "used_mib": 15000,
    }
    assert "foreign: 14.6 GiB by game (user nobody" in host.machine.run(["gpumanctl", "status"]).stdout
